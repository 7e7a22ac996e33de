//! eliminate-unused-opsets

use hashbrown::HashSet;
use onnxfix_ir::{Model, op};

use crate::{Changed, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Removes imports of operator sets that no node uses.
    ///
    /// ## Why ATC needs it
    /// It takes models with one `opset_import` only (error E16005). Exporters and optimizers list every set they know.
    ///
    /// ## Before
    /// ```onnx
    /// <ir_version: 8, opset_import: ["" : 13, "com.microsoft" : 1]>
    /// g (float[2] x) => (float[2] y) { y = Relu (x) }
    /// ```
    /// ## After
    /// ```onnx
    /// <ir_version: 8, opset_import: ["" : 13]>
    /// g (float[2] x) => (float[2] y) { y = Relu (x) }
    /// ```
    ///
    /// ## Applies when
    /// - No node of the domain is in the graph, in a body or in a function; ONNX's own domain always stays.
    ///
    /// ## Numerics
    /// Exact.
    pub EliminateUnusedOpsets = "eliminate-unused-opsets", Eliminate, Exact
}

impl Pass for EliminateUnusedOpsets {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let mut used: HashSet<String> =
            model.all_nodes().map(|(_, n)| n.op().domain().to_owned()).collect();
        used.insert(String::new());
        let mut seen: HashSet<String> = HashSet::new();
        let before = model.opsets.len();
        let mut opsets = model.opsets.clone();
        opsets.retain(|o| {
            let domain = op::normal_domain(o.domain.as_deref().unwrap_or("")).to_owned();
            used.contains(&domain) && seen.insert(domain)
        });
        if opsets.len() == before || !cx.spend() {
            return Ok(Changed::No);
        }
        model.opsets = opsets;
        Ok(Changed::Yes)
    }
}

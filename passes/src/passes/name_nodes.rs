//! name-nodes

use hashbrown::HashSet;
use onnxfix_ir::{Model, Name, NodeId};

use crate::patch::{PROVENANCE, node_name, takes_no_part_in_names};
use crate::{Changed, Documented, Pass, PassCx, PassError, declare_pass};

declare_pass! {
    /// Gives every node a name of its own, without the characters that ATC's options use as marks.
    ///
    /// ## Why ATC needs it
    /// Nodes of one name break its graph, and one without gets a number that changes with the model. `--keep_dtype` lists
    /// names of nodes line by line, `--out_nodes` between ':' and ';'.
    ///
    /// ## Before
    /// ```onnx
    /// g (float[2] x) => (float[2] y) {
    ///    ["act:0"] h = Relu (x)
    ///    ["act:0"] y = Neg (h)
    /// }
    /// ```
    /// ## After
    /// ```onnx
    /// g (float[2] x) => (float[2] y) {
    ///    ["act_0"] h = Relu (x)
    ///    ["act_0_1"] y = Neg (h)
    /// }
    /// ```
    ///
    /// ## Applies when
    /// - A node has no name, the name of another node, or one with ':', ';', ',', a space or a control character. The first
    ///   node of a name keeps it; one without is named after its first output.
    /// - Names of inputs and outputs stay: whoever feeds the model uses them. A warning says which inputs ATC's
    ///   `--input_shape` cannot name; their shapes are fixed in the model, so that it can be left out.
    ///
    /// ## Numerics
    /// Exact.
    pub NameNodes = "name-nodes", Legalise, Exact
}

impl Pass for NameNodes {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        let pass = self.info().name;
        for &input in model[model.root()].inputs() {
            let name = model[input].name();
            if model.constant(input).is_none() && name.chars().any(takes_no_part_in_names) {
                cx.warn(pass, format!(
                    "ATC cannot be told of input {name:?} in --input_shape: leave the option out, or rename the input \
                     where the model is exported"
                ));
            }
        }
        // What passes made is named at the end of the run.
        let is_made = |id: NodeId| model[id].metadata.iter().any(|(key, _)| key == PROVENANCE);
        let found: Vec<NodeId> =
            model.all_nodes().map(|(id, _)| id).filter(|&id| !is_made(id)).collect();
        // A clean name that a later node bears already is not given to an earlier one.
        let clean = |id: NodeId| {
            model[id].name.clone().filter(|name| !name.is_empty() && *name == node_name(name))
        };
        let borne: HashSet<Name> = found.iter().filter_map(|&id| clean(id)).collect();
        let mut taken: HashSet<Name> = HashSet::new();
        let mut wanted: Vec<(NodeId, Name)> = Vec::new();
        for &id in &found {
            if clean(id).is_some_and(|name| taken.insert(name)) {
                continue;
            }
            let own = model[id].name.clone().filter(|name| !name.is_empty());
            let output = || model[id].outputs().iter().flatten().next().copied();
            let base = own
                .or_else(|| output().map(|y| model[y].name().clone()))
                .unwrap_or_else(|| model[id].op().name.clone());
            let base = node_name(&base);
            let numbered = (1..).map(|n| Name::from(format!("{base}_{n}").as_str()));
            let mut names = std::iter::once(base.clone()).chain(numbered);
            let free = names.find(|name| !borne.contains(name) && taken.insert(name.clone()));
            wanted.extend(free.map(|name| (id, name)));
        }
        let mut changed = Changed::No;
        for (id, name) in wanted {
            if !cx.spend() {
                break;
            }
            *model.node_mut(id).name() = Some(name);
            changed = Changed::Yes;
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use onnxfix_ir::text::parse_graph;

    use crate::{Options, Pipeline, run};

    fn named(text: &str) -> (Vec<String>, Vec<String>) {
        let mut model = parse_graph(text, 13).expect("a graph");
        let pipeline = Pipeline::of(&["name-nodes"]).expect("a pass of the table");
        let mut names = Vec::new();
        let mut notes = Vec::new();
        for _ in 0..2 {
            let again = std::mem::take(&mut names);
            let report =
                run(&mut model, &pipeline, &Options::default(), &mut |_, _| {}).expect("a run");
            let name = |n: &onnxfix_ir::Node| n.name.as_deref().unwrap_or_default().to_owned();
            names = model.all_nodes().map(|(_, n)| name(n)).collect();
            assert!(again.is_empty() || again == names, "a second run changed something");
            notes = report.notes.into_iter().map(|note| note.text).collect();
        }
        (names, notes)
    }

    #[test]
    fn names_are_there_and_clean_and_differ() {
        let text = r#"g (float[2] x) => (float[2] y) {
   ["a:0"] b = Relu (x)  [a_0] c = Neg (b)  [a_0] d = Abs (c)  "e;1" = Neg (d)  ["f g"] h = Abs ("e;1")  ["a b"] y = Neg (h)
}"#;
        assert_eq!(named(text).0, ["a_0_1", "a_0", "a_0_2", "e_1", "f_g", "a_b"]);
    }

    #[test]
    fn an_input_that_atc_cannot_name_is_told_of() {
        let (names, notes) =
            named(r#"g (float[2] "x:0") => (float[2] y) { [n] y = Relu ("x:0") }"#);
        assert_eq!(names, ["n"]);
        assert!(notes[0].contains(r#"input "x:0" in --input_shape"#), "{notes:?}");
    }
}

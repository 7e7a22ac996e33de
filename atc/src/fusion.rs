//! Which fusions ATC found and made.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Whether a fusion joins nodes of the graph or kernels in the unified buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FusionKind {
    /// Nodes of the graph.
    Graph,
    /// Kernels whose data stays in the unified buffer.
    Buffer,
}

/// A pass of ATC that found its pattern.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FusionPass {
    /// Its name: `LayerNormONNXFusionPass`.
    pub name: String,
    /// What it joins.
    pub kind: FusionKind,
    /// How often it found its pattern.
    pub matched: u64,
    /// How often it then changed the graph.
    pub effective: u64,
}

/// What `fusion_result.json` says, summed over sessions and graphs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(transparent)]
pub struct Fusion {
    /// Passes that found something, by kind and name.
    pub passes: Vec<FusionPass>,
}

impl Fusion {
    /// Reads the file. ATC writes one object whose members are sessions, and numbers as texts; some releases wrote a list of
    /// such objects. Nothing where it is not of that form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Fusion> {
        let file: Value = serde_json::from_str(text).ok()?;
        let mut sums: BTreeMap<(FusionKind, String), (u64, u64)> = BTreeMap::new();
        let sessions: Vec<&Value> = match &file {
            Value::Array(list) => list.iter().collect(),
            Value::Object(_) => vec![&file],
            _ => return None,
        };
        for graph in
            sessions.iter().filter_map(|v| v.as_object()).flat_map(|session| session.values())
        {
            for (key, kind) in
                [("graph_fusion", FusionKind::Graph), ("ub_fusion", FusionKind::Buffer)]
            {
                for (name, times) in graph.get(key).and_then(Value::as_object).into_iter().flatten()
                {
                    let number = |key: &str| times.get(key).and_then(number).unwrap_or(0);
                    let (matched, effective) = (number("match_times"), number("effect_times"));
                    let sum = sums.entry((kind, name.clone())).or_default();
                    *sum = (sum.0 + matched, sum.1 + effective);
                }
            }
        }
        let found = sums.into_iter().filter(|(_, (matched, effective))| matched + effective > 0);
        let pass =
            |((kind, name), (matched, effective))| FusionPass { name, kind, matched, effective };
        Some(Fusion { passes: found.map(pass).collect() })
    }

    /// How often a pass changed the graph.
    #[must_use]
    pub fn effective(&self, name: &str) -> u64 {
        self.passes.iter().filter(|pass| pass.name == name).map(|pass| pass.effective).sum()
    }
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_summed() {
        let text = r#"{
            "session_and_graph_id_0_0": {
                "graph_fusion": {"LayerNormONNXFusionPass": {"match_times": "3", "effect_times": "2"},
                                 "Idle": {"match_times": "0", "effect_times": "0"}},
                "ub_fusion": {"Pool": {"match_times": "1", "repository_hit_times": "0", "effect_times": "1"}}},
            "session_and_graph_id_0_1": {
                "graph_fusion": {"LayerNormONNXFusionPass": {"match_times": "1", "effect_times": "1"}}}
        }"#;
        let fusion = Fusion::parse(text).unwrap();
        assert_eq!(fusion.passes.len(), 2);
        assert_eq!(fusion.effective("LayerNormONNXFusionPass"), 3);
        assert_eq!((fusion.passes[1].kind, fusion.passes[1].matched), (FusionKind::Buffer, 1));
        assert_eq!(Fusion::parse(&format!("[{text}]")), Some(fusion));
        assert_eq!(Fusion::parse("3"), None);
    }
}

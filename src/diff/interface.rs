//! What callers and compilers see of a model before its nodes.

use std::collections::BTreeMap;

use onnxfix_ir::{Function, Model, Opset, ValueId};

use super::Change;

/// What the files say about themselves.
pub(super) fn file(before: &Model, after: &Model) -> Vec<Change> {
    let (b, a) = (&before.header, &after.header);
    let number = |n: Option<i64>| n.map(|n| n.to_string());
    let graph = |m: &Model| m[m.root()].name.as_ref().map(ToString::to_string);
    let fields = [
        ("format", number(b.ir_version), number(a.ir_version)),
        ("exporter", b.producer_name.clone(), a.producer_name.clone()),
        ("exporter version", b.producer_version.clone(), a.producer_version.clone()),
        ("domain", b.domain.clone(), a.domain.clone()),
        ("model version", number(b.model_version), number(a.model_version)),
        ("documentation", b.doc_string.clone(), a.doc_string.clone()),
        ("graph", graph(before), graph(after)),
    ];
    let mut changes: Vec<Change> =
        fields.into_iter().filter_map(|(what, b, a)| Change::between(what, b, a)).collect();
    changes.extend(maps("opset", &opsets(&before.opsets), &opsets(&after.opsets)));
    let metadata = |m: &Model| m.header.metadata.iter().cloned().collect();
    changes.extend(maps("metadata", &metadata(before), &metadata(after)));
    changes.extend(maps("function", &functions(before), &functions(after)));
    changes
}

fn opsets(opsets: &[Opset]) -> BTreeMap<String, String> {
    let domain = |opset: &Opset| match opset.domain.as_deref() {
        None | Some("") => "ai.onnx".to_owned(),
        Some(domain) => domain.to_owned(),
    };
    let version =
        |opset: &Opset| opset.version.map_or_else(|| "without version".into(), |v| v.to_string());
    opsets.iter().map(|opset| (domain(opset), version(opset))).collect()
}

/// How a function is called, and what callers have to know.
fn functions(model: &Model) -> BTreeMap<String, String> {
    let names = |ids: &[ValueId]| {
        ids.iter().map(|&v| model[v].name().to_string()).collect::<Vec<_>>().join(", ")
    };
    let interface = |f: &Function| {
        let body = &model[f.body];
        let mut attributes: Vec<&str> =
            f.attributes.iter().chain(f.defaults.0.iter().map(|a| &a.name)).map(|n| &**n).collect();
        attributes.sort_unstable();
        let opsets = opsets(&f.opsets);
        let opsets: Vec<String> = opsets.iter().map(|(d, v)| format!("{d} {v}")).collect();
        format!(
            "({}) <{}> => ({}), opset {}",
            names(body.inputs()),
            attributes.join(", "),
            names(body.outputs()),
            opsets.join(", ")
        )
    };
    model.functions.iter().map(|f| (function_name(f), interface(f))).collect()
}

/// A function by all that a call says of it.
pub(super) fn function_name(function: &Function) -> String {
    let domain = function.domain.as_deref().unwrap_or("");
    let overload = function.overload.as_deref().filter(|o| !o.is_empty());
    let overload = overload.map(|o| format!(":{o}")).unwrap_or_default();
    format!("{domain}.{}{overload}", function.name)
}

fn maps<'a>(
    what: &'a str,
    before: &'a BTreeMap<String, String>,
    after: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = Change> + 'a {
    let new = after.keys().filter(|key| !before.contains_key(*key));
    let one = move |key: &String| {
        Change::between(format!("{what} {key}"), before.get(key).cloned(), after.get(key).cloned())
    };
    before.keys().chain(new).filter_map(one)
}

/// Inputs or outputs: types by name, then the order.
pub(super) fn values(before: &Model, after: &Model, b: &[ValueId], a: &[ValueId]) -> Vec<Change> {
    let typed = |model: &Model, v: ValueId| {
        model[v].ty.as_ref().map_or_else(|| "of unknown type".into(), ToString::to_string)
    };
    let in_after = |name: &str| a.iter().copied().find(|&v| after[v].name() == name);
    let in_before = |name: &str| b.iter().copied().find(|&v| before[v].name() == name);
    let mut changes: Vec<Change> = b
        .iter()
        .filter_map(|&v| {
            let name = before[v].name();
            let other = in_after(name).map(|v| typed(after, v));
            Change::between(name.to_string(), Some(typed(before, v)), other)
        })
        .collect();
    changes.extend(a.iter().filter(|&&v| in_before(after[v].name()).is_none()).map(|&v| Change {
        what: after[v].name().to_string(),
        before: None,
        after: Some(typed(after, v)),
    }));
    // Of those that both have: what is new or gone is said already.
    let order = |model: &Model, ids: &[ValueId]| {
        let both = ids.iter().map(|&v| model[v].name());
        let both = both.filter(|n| in_before(n).is_some() && in_after(n).is_some());
        Some(both.map(ToString::to_string).collect::<Vec<_>>().join(", "))
    };
    changes.extend(Change::between("order", order(before, b), order(after, a)));
    changes
}

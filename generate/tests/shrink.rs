//! A sample that fails becomes the smallest one that fails alike.

use onnxfix_generate::{Choices, Recipe, histogram, sample, shrink};
use onnxfix_ir::Model;

#[test]
fn what_has_nothing_to_do_with_it_goes() {
    let fails =
        |op: &'static str| move |s: &onnxfix_generate::Sample| histogram(&s.model).contains_key(op);
    for op in ["Softmax", "Slice", "Gather"] {
        let found = (0..100_000)
            .map(|seed| sample(&mut Choices::from_seed(seed), &Recipe::default()).0)
            .find(|s| fails(op)(s) && is_flat(&s.model) && s.model.all_nodes().count() > 12);
        let small = shrink(found.expect("one of many samples"), &fails(op));
        // A Constant is as small as an initializer.
        let counts = histogram(&small.model).into_iter().filter(|(of, _)| of != "Constant");
        let nodes: usize = counts.map(|(_, n)| n).sum();
        assert_eq!(nodes, 1, "{op}");
    }
}

/// Whether there are neither functions nor bodies: what is in one cannot become smaller than what is around it.
fn is_flat(model: &Model) -> bool {
    model.functions.is_empty() && model.all_nodes().all(|(_, n)| n.graph() == model.root())
}

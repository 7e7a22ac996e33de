//! A sample that fails becomes the smallest one that fails alike.

use onnxfix_generate::{Choices, Recipe, histogram, sample, shrink};

#[test]
fn what_has_nothing_to_do_with_it_goes() {
    let fails =
        |op: &'static str| move |s: &onnxfix_generate::Sample| histogram(&s.model).contains_key(op);
    for op in ["Softmax", "Slice", "Gather"] {
        let found = (0..100_000)
            .map(|seed| sample(&mut Choices::from_seed(seed), &Recipe::default()).0)
            .find(|s| {
                fails(op)(s) && s.model.functions.is_empty() && s.model.all_nodes().count() > 20
            });
        let small = shrink(found.expect("one of many samples"), &fails(op));
        let nodes: usize = histogram(&small.model).values().sum();
        assert_eq!(nodes, 1, "{op}");
    }
}

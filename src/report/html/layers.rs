//! Which layer of an encoder each node belongs to.
//!
//! Layers repeat the same steps, but exporters cut them into any number of nodes and passes rewrite some layers further
//! than others, so nothing is compared step by step. Every layer has an attention, though, and an attention a Softmax that
//! something multiplies with; and all that one layer's attention tells the next passes through one value, the next
//! layer's input. That value is where a layer begins.

/// A graph as this module sees it: nodes in topological order.
pub(super) struct Steps<'a> {
    /// For each node the nodes that it reads, as positions before its own.
    pub(super) reads: &'a [Vec<usize>],
    /// The nodes that are the Softmax of an attention.
    pub(super) softmaxes: &'a [usize],
}

/// The layer of each node, from 0, and how many layers there are. Before the first layer there is none; what follows the
/// last one belongs to it.
pub(super) fn find(steps: &Steps<'_>) -> (Vec<Option<usize>>, usize) {
    let len = steps.reads.len();
    let none = || (vec![None; len], 0);
    let stages = stages(steps);
    if stages.len() < 2 {
        return none();
    }
    let mut begins = Vec::new();
    for pair in stages.windows(2) {
        let Some(begin) = narrow(steps, &pair[0], &pair[1]) else { return none() };
        begins.push(begin);
    }
    // Nothing comes before the first attention that the same could be asked of, so its layer is one that looks the same.
    let first = first(steps, begins[0], &stages[1], &stages[0]);
    begins.splice(0..0, first);

    let mut layers: Vec<Option<usize>> = vec![None; len];
    for node in 0..len {
        layers[node] = steps.reads[node]
            .iter()
            .filter_map(|&from| begins.iter().position(|&b| b == from).max(layers[from]))
            .max();
    }
    // What only one layer reads belongs to it: projected tables, computed shapes.
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); len];
    for (node, reads) in steps.reads.iter().enumerate() {
        for &from in reads {
            readers[from].push(node);
        }
    }
    for node in (0..len).rev().filter(|node| !begins.contains(node)) {
        if layers[node].is_none()
            && let Some((&one, others)) = readers[node].split_first()
            && others.iter().all(|&other| layers[other] == layers[one])
        {
            layers[node] = layers[one];
        }
    }
    (layers, begins.len())
}

/// The Softmaxes in groups: those of one group do not depend on each other (ConvBERT has two in a layer).
fn stages(steps: &Steps<'_>) -> Vec<Vec<usize>> {
    let mut depth = vec![0; steps.reads.len()];
    let mut stages: Vec<Vec<usize>> = Vec::new();
    for node in 0..depth.len() {
        let above = steps.reads[node].iter().map(|&from| depth[from]).max().unwrap_or(0);
        let is_softmax = steps.softmaxes.contains(&node);
        depth[node] = above + usize::from(is_softmax);
        if is_softmax {
            stages.resize_with(stages.len().max(depth[node]), Vec::new);
            stages[above].push(node);
        }
    }
    stages
}

/// The last node that everything passes on its way from one group of nodes to another, and that more than one reads.
fn narrow(steps: &Steps<'_>, from: &[usize], to: &[usize]) -> Option<usize> {
    let len = steps.reads.len();
    let mut behind = vec![false; len];
    for node in 0..len {
        behind[node] = from.contains(&node) || steps.reads[node].iter().any(|&r| behind[r]);
    }
    let mut between = vec![false; len];
    for &node in to {
        between[node] = true;
    }
    for node in (0..len).rev() {
        if between[node] {
            steps.reads[node].iter().filter(|&&r| behind[r]).for_each(|&r| between[r] = true);
        }
    }
    // The last reader of each node on the way; a node is narrow when no earlier one has a reader behind it.
    let mut last = vec![0; len];
    let mut count = vec![0; len];
    for node in (0..len).filter(|&n| between[n]) {
        for &read in steps.reads[node].iter().filter(|&&r| between[r]) {
            last[read] = node;
            count[read] += 1;
        }
    }
    let mut furthest = 0;
    let mut found = None;
    for node in (0..len).filter(|&n| between[n] && !to.contains(&n)) {
        if furthest <= node && count[node] > 1 && !from.contains(&node) {
            found = Some(node);
        }
        furthest = furthest.max(last[node]);
    }
    found
}

/// The node that is to `softmaxes` what `begin` is to `others`: as many steps above.
fn first(steps: &Steps<'_>, begin: usize, others: &[usize], softmaxes: &[usize]) -> Option<usize> {
    let mut path = path(steps, *others.first()?, begin)?;
    let mut node = *softmaxes.first()?;
    path.reverse();
    while let Some((slot, count)) = path.pop() {
        if steps.reads[node].len() != count {
            return None;
        }
        node = steps.reads[node][slot];
    }
    Some(node)
}

/// A way up from one node to another: at each step which of how many reads to follow.
fn path(steps: &Steps<'_>, from: usize, to: usize) -> Option<Vec<(usize, usize)>> {
    let mut leads = vec![false; from + 1];
    leads[to] = true;
    for node in to + 1..=from {
        leads[node] = steps.reads[node].iter().any(|&r| leads[r]);
    }
    let mut path = Vec::new();
    let mut node = from;
    while node != to {
        let slot = steps.reads[node].iter().position(|&r| leads[r])?;
        path.push((slot, steps.reads[node].len()));
        node = steps.reads[node][slot];
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two layers of `x → (a, b) → softmax → c → x + c`, behind two nodes and before one, with a table for each layer.
    #[test]
    fn a_layer_is_from_its_input_to_the_next() {
        let reads = [
            vec![],      // 0 input
            vec![0],     // 1 embedding: x of the first layer
            vec![],      // 2 table, made anew for each layer
            vec![1],     // 3 a
            vec![1, 2],  // 4 b
            vec![3, 4],  // 5 softmax
            vec![5],     // 6 c
            vec![1, 6],  // 7 sum: x of the second layer
            vec![],      // 8 table
            vec![7],     // 9
            vec![7, 8],  // 10
            vec![9, 10], // 11 softmax
            vec![11],    // 12
            vec![7, 12], // 13
            vec![13],    // 14 head
        ];
        let (layers, count) = find(&Steps { reads: &reads, softmaxes: &[5, 11] });
        let shown: Vec<String> =
            layers.iter().map(|l| l.map_or_else(|| "-".into(), |l| l.to_string())).collect();
        assert_eq!((shown.join(" ").as_str(), count), ("- - 0 0 0 0 0 0 1 1 1 1 1 1 1", 2));
    }

    #[test]
    fn without_attention_there_are_no_layers() {
        let reads = [vec![], vec![0], vec![1]];
        assert_eq!(find(&Steps { reads: &reads, softmaxes: &[1] }), (vec![None; 3], 0));
    }
}

//! Local rewrites and the driver that applies them.
//!
//! A rewrite looks at the model and answers with a [`Patch`] or a [`Miss`]; it cannot change anything, by type.
//! The driver owns safety: it refuses patches that would lose a public name, checks types, removes what died, and
//! looks again at everything that a patch touched.

use std::collections::VecDeque;
use std::ptr;

use onnxfix_ir::op::{self, Operator};
use onnxfix_ir::{Def, Model, Node, NodeId, SideTable, ValueId};
use smallvec::SmallVec;

use crate::pass::place;
use crate::patch::{Applied, apply};
use crate::{Changed, CostModel, Documented, Miss, Pass, PassCx, PassError, Patch};

/// A rewrite around one node.
pub trait Rewrite: Documented + Sync {
    /// Operators that can be the root of the match. The driver asks for no other node.
    fn roots(&self) -> &'static [&'static str];

    /// What has to hold of the whole model before the first match.
    ///
    /// # Errors
    /// As [`Pass::run`].
    fn prepare(&self, _model: &mut Model, _cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        Ok(Changed::No)
    }

    /// What should be done at `root`.
    ///
    /// # Errors
    /// [`Miss::NoMatch`] when this is another pattern, [`Miss::Unmet`] when a condition fails.
    fn try_rewrite(&self, model: &Model, root: NodeId) -> Result<Patch, Miss>;

    /// As [`Rewrite::try_rewrite`], where the target says what its operators cost. A pass that leaves another form of the
    /// same numbers says [`Miss::Unmet`] where that form would not be faster.
    ///
    /// # Errors
    /// As [`Rewrite::try_rewrite`].
    fn choose(&self, model: &Model, root: NodeId, _: &dyn CostModel) -> Result<Patch, Miss> {
        self.try_rewrite(model, root)
    }
}

impl<R: Rewrite> Pass for R {
    fn run(&self, model: &mut Model, cx: &mut PassCx<'_>) -> Result<Changed, PassError> {
        match (self.prepare(model, cx)?, drive(self, model, cx)?) {
            (Changed::No, Changed::No) => Ok(Changed::No),
            _ => Ok(Changed::Yes),
        }
    }
}

/// The nodes still to look at, each at most once.
struct Worklist {
    queue: VecDeque<NodeId>,
    waiting: SideTable<Node, ()>,
}

impl Worklist {
    fn push(&mut self, node: NodeId) {
        if self.waiting.insert(node, ()).is_none() {
            self.queue.push_back(node);
        }
    }

    fn pop(&mut self) -> Option<NodeId> {
        let node = self.queue.pop_front()?;
        self.waiting.remove(node);
        Some(node)
    }
}

fn drive(
    rewrite: &dyn Rewrite,
    model: &mut Model,
    cx: &mut PassCx<'_>,
) -> Result<Changed, PassError> {
    let roots = rewrite.roots().iter().filter_map(|name| op::find("", name));
    let roots: SmallVec<[&Operator; 8]> = roots.collect();
    let pass = rewrite.info().name;
    let mut work = Worklist { queue: VecDeque::new(), waiting: SideTable::new() };
    for graph in model.graphs().collect::<Vec<_>>() {
        for node in model.nodes(graph) {
            if is_root(model, node, &roots) {
                work.push(node);
            }
        }
    }
    let mut changed = Changed::No;
    while let Some(root) = work.pop() {
        if model.node(root).is_none() || !is_root(model, root, &roots) {
            continue;
        }
        let found = match &cx.options.costs {
            Some(costs) => rewrite.choose(model, root, &**costs),
            None => rewrite.try_rewrite(model, root),
        };
        let patch = match found {
            Ok(patch) => match patch.obstacle(model) {
                None => patch,
                Some(why) => {
                    cx.miss(model, pass, root, why);
                    continue;
                }
            },
            Err(Miss::Unmet(why)) => {
                cx.miss(model, pass, root, &why);
                continue;
            }
            Err(Miss::NoMatch) => continue,
        };
        if !cx.spend() {
            break;
        }
        let at = place(model, root);
        let broken = |broken: String, cx: &PassCx<'_>| PassError::Broken {
            pass,
            rewrite: cx.rewrites,
            node: at.clone(),
            broken,
        };
        let Applied { touched, loosened } = apply(model, patch, pass).map_err(|b| broken(b, cx))?;
        tracing::debug!(pass, root = %at, new_nodes = touched.len(), "rewrite");
        for value in loosened {
            remove_dead(model, value, &mut |value| {
                // Whatever still reads it may now be its only reader.
                for user in model_users(value.0, value.1) {
                    work.push(user);
                }
            });
        }
        for node in touched {
            if model.node(node).is_some() {
                work.push(node);
            }
        }
        if cx.options.check_each {
            let found = onnxfix_ir::check(model);
            if let Some(first) = found.first() {
                return Err(broken(first.to_string(), cx));
            }
        }
        changed = Changed::Yes;
    }
    Ok(changed)
}

fn model_users(model: &Model, value: ValueId) -> Vec<NodeId> {
    let producer = model.producer(value);
    model.users(value).chain(producer).collect()
}

/// Whether a node's operator is one of these, by their entries in the table: texts would have to be read.
fn is_root(model: &Model, node: NodeId, roots: &[&'static Operator]) -> bool {
    model[node].op().def.is_some_and(|def| roots.iter().any(|&root| ptr::eq(root, def)))
}

/// Removes the producer of an unused value, and whatever dies with it. `survivor` hears of each value that lost a
/// use and is still alive.
pub(crate) fn remove_dead(
    model: &mut Model,
    value: ValueId,
    survivor: &mut dyn FnMut((&Model, ValueId)),
) {
    let mut stack = vec![value];
    while let Some(value) = stack.pop() {
        let Some(v) = model.value(value) else { continue };
        if !v.uses().is_empty() {
            survivor((model, value));
            continue;
        }
        let Def::Node { node, .. } = *v.def() else { continue };
        let used = model[node].outputs().iter().flatten().any(|&y| !model[y].uses().is_empty());
        if used {
            continue;
        }
        stack.extend(model[node].inputs().iter().flatten());
        model.remove_node(node);
    }
}

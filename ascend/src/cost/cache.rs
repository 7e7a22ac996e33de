//! The cache that all cores share: what is still in it when it is read again.

use std::collections::VecDeque;

use onnxfix_ir::ValueId;

/// Bytes moved.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Traffic {
    /// From or to memory.
    pub(super) memory: f64,
    /// From or to the cache.
    pub(super) cache: f64,
}

/// Whole tensors in the order of their last use. One that is larger than the cache is never in it.
pub(super) struct Cache {
    capacity: f64,
    used: f64,
    /// The least recently used first.
    held: VecDeque<(ValueId, f64)>,
}

impl Cache {
    pub(super) fn new(capacity: u64) -> Cache {
        Cache { capacity: capacity as f64, used: 0.0, held: VecDeque::new() }
    }

    /// Reads `bytes` of a tensor that has `size` bytes. Where that is not all of it, the cache does not get it.
    pub(super) fn read(&mut self, value: ValueId, bytes: f64, size: f64) -> Traffic {
        let hit = self.held.iter().any(|(held, _)| *held == value);
        if hit || bytes >= size {
            self.touch(value, size);
        }
        if hit {
            Traffic { memory: 0.0, cache: bytes }
        } else {
            Traffic { memory: bytes, cache: 0.0 }
        }
    }

    /// Writes a tensor.
    pub(super) fn write(&mut self, value: ValueId, size: f64) -> Traffic {
        self.touch(value, size);
        if size <= self.capacity {
            Traffic { memory: 0.0, cache: size }
        } else {
            Traffic { memory: size, cache: 0.0 }
        }
    }

    fn touch(&mut self, value: ValueId, size: f64) {
        if let Some(at) = self.held.iter().position(|(held, _)| *held == value)
            && let Some((_, held)) = self.held.remove(at)
        {
            self.used -= held;
        }
        if size > self.capacity {
            return;
        }
        while self.used + size > self.capacity
            && let Some((_, oldest)) = self.held.pop_front()
        {
            self.used -= oldest;
        }
        self.used += size;
        self.held.push_back((value, size));
    }
}

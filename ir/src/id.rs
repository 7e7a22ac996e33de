//! Typed indices, the arenas they point into, and side tables keyed by them.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// Index of a `T` in the arena of a [`Model`](crate::Model). Stable until the `T` is removed, and never given out again.
pub struct Id<T> {
    raw: u32,
    _ty: PhantomData<fn() -> T>,
}

impl<T> Id<T> {
    fn new(index: usize) -> Id<T> {
        // 2³² nodes would need more memory than any protobuf file can describe.
        let raw = u32::try_from(index).expect("fewer than 2^32 entries in an arena");
        Id { raw, _ty: PhantomData }
    }

    /// The position in the arena, as a plain number: for hashing, printing and bit sets.
    #[must_use]
    pub fn index(self) -> usize {
        self.raw as usize
    }
}

// Derives would ask for `T: Clone` and so on; an id is a number whatever it points at.
impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.raw == other.raw
    }
}
impl<T> Eq for Id<T> {}
impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.raw.cmp(&other.raw)
    }
}
impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.raw.hash(state);
    }
}
impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ty = std::any::type_name::<T>();
        write!(f, "{}#{}", ty.rsplit("::").next().unwrap_or(ty), self.raw)
    }
}

/// Owns every `T` of a model. Removal leaves a hole, so the ids of the others stay valid.
#[derive(Debug, Clone)]
pub struct Arena<T> {
    slots: Vec<Option<T>>,
    live: usize,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { slots: Vec::new(), live: 0 }
    }
}

impl<T> Arena<T> {
    pub(crate) fn push(&mut self, item: T) -> Id<T> {
        let id = Id::new(self.slots.len());
        self.slots.push(Some(item));
        self.live += 1;
        id
    }

    pub(crate) fn remove(&mut self, id: Id<T>) -> Option<T> {
        let item = self.slots.get_mut(id.index())?.take();
        self.live -= usize::from(item.is_some());
        item
    }

    /// The `T` behind `id`, or `None` once it was removed.
    #[must_use]
    pub fn get(&self, id: Id<T>) -> Option<&T> {
        self.slots.get(id.index())?.as_ref()
    }

    /// Every live id with its `T`, in the order of creation.
    pub fn iter(&self) -> impl Iterator<Item = (Id<T>, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((Id::new(i), slot.as_ref()?)))
    }

    /// How many entries are alive.
    #[must_use]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether nothing is alive.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }
}

impl<T> Index<Id<T>> for Arena<T> {
    type Output = T;
    /// A removed id is a bug of the caller, so this panics; [`Arena::get`] asks first.
    fn index(&self, id: Id<T>) -> &T {
        self.slots[id.index()].as_ref().expect("id of a live entry")
    }
}

impl<T> IndexMut<Id<T>> for Arena<T> {
    fn index_mut(&mut self, id: Id<T>) -> &mut T {
        self.slots[id.index()].as_mut().expect("id of a live entry")
    }
}

/// A value per id, kept beside the model instead of in it. What was never set is absent.
#[derive(Debug, Clone)]
pub struct SideTable<T, V> {
    slots: Vec<Option<V>>,
    _ty: PhantomData<fn() -> T>,
}

impl<T, V> Default for SideTable<T, V> {
    fn default() -> Self {
        SideTable { slots: Vec::new(), _ty: PhantomData }
    }
}

impl<T, V> SideTable<T, V> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What was set for `id`.
    #[must_use]
    pub fn get(&self, id: Id<T>) -> Option<&V> {
        self.slots.get(id.index())?.as_ref()
    }

    /// What was set for `id`, to be changed.
    pub fn get_mut(&mut self, id: Id<T>) -> Option<&mut V> {
        self.slots.get_mut(id.index())?.as_mut()
    }

    /// Sets the entry of `id` and returns the old one.
    pub fn insert(&mut self, id: Id<T>, value: V) -> Option<V> {
        if self.slots.len() <= id.index() {
            self.slots.resize_with(id.index() + 1, || None);
        }
        self.slots[id.index()].replace(value)
    }

    /// Takes the entry of `id` out.
    pub fn remove(&mut self, id: Id<T>) -> Option<V> {
        self.slots.get_mut(id.index())?.take()
    }

    /// Whether `id` has an entry.
    #[must_use]
    pub fn contains(&self, id: Id<T>) -> bool {
        self.get(id).is_some()
    }
}

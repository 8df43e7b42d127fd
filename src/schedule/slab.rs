//! Values with stable ids, in chunks that are freed when they are empty: growing moves no value,
//! and a burst leaves no memory behind. Pure.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

/// The key of a value in the slab.
pub(crate) type RecordId = NonZeroU32;

const CHUNK: usize = 128;

#[derive(Debug)]
pub(crate) struct Slab<V> {
    chunks: Vec<Option<Box<Chunk<V>>>>,
    /// The chunks with a free slot, freed chunks included.
    open: BTreeSet<usize>,
    len: usize,
}

#[derive(Debug)]
struct Chunk<V> {
    values: [Option<V>; CHUNK],
    /// The free slots, the next one last.
    free: Vec<u8>,
}

impl<V> Slab<V> {
    pub(crate) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            open: BTreeSet::new(),
            len: 0,
        }
    }

    #[cfg(any(test, fuzzing))]
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// # Panics
    ///
    /// If there are four billion values.
    pub(crate) fn insert(&mut self, value: V) -> RecordId {
        let chunk_index = self.open.first().copied().unwrap_or_else(|| {
            self.chunks.push(None);
            self.open.insert(self.chunks.len() - 1);
            self.chunks.len() - 1
        });
        let chunk = self.chunks[chunk_index].get_or_insert_with(|| {
            let free = (0..CHUNK as u8).rev().collect();
            Box::new(Chunk {
                values: [const { None }; CHUNK],
                free,
            })
        });
        let index = chunk.free.pop().expect("an open chunk has a free slot");
        chunk.values[usize::from(index)] = Some(value);
        if chunk.free.is_empty() {
            self.open.remove(&chunk_index);
        }
        self.len += 1;
        let record_id = u32::try_from(chunk_index * CHUNK + usize::from(index) + 1)
            .ok()
            .and_then(RecordId::new);
        record_id.expect("a slab holds fewer than four billion values")
    }

    const fn locate(record_id: RecordId) -> (usize, usize) {
        let index = record_id.get() as usize - 1;
        (index / CHUNK, index % CHUNK)
    }

    pub(crate) fn get(&self, record_id: RecordId) -> Option<&V> {
        let (chunk_index, index) = Self::locate(record_id);
        self.chunks.get(chunk_index)?.as_ref()?.values[index].as_ref()
    }

    pub(crate) fn get_mut(&mut self, record_id: RecordId) -> Option<&mut V> {
        let (chunk_index, index) = Self::locate(record_id);
        self.chunks.get_mut(chunk_index)?.as_mut()?.values[index].as_mut()
    }

    pub(crate) fn remove(&mut self, record_id: RecordId) -> Option<V> {
        let (chunk_index, index) = Self::locate(record_id);
        let slot = self.chunks.get_mut(chunk_index)?;
        let chunk = slot.as_mut()?;
        let value = chunk.values[index].take()?;
        chunk.free.push(index as u8);
        if chunk.free.len() == 1 {
            self.open.insert(chunk_index);
        } else if chunk.free.len() == CHUNK && self.len > 1 {
            // One empty chunk stays allocated, for a pool that has one job at a time.
            *slot = None;
            while let Some(None) = self.chunks.last() {
                self.chunks.pop();
                self.open.remove(&self.chunks.len());
            }
        }
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (RecordId, &V)> {
        self.chunks
            .iter()
            .enumerate()
            .filter_map(|(chunk_index, chunk)| Some((chunk_index, chunk.as_ref()?)))
            .flat_map(|(chunk_index, chunk)| {
                let index = move |index| {
                    u32::try_from(chunk_index * CHUNK + index + 1)
                        .ok()
                        .and_then(RecordId::new)
                };
                chunk
                    .values
                    .iter()
                    .enumerate()
                    .filter_map(move |(at, value)| Some((index(at)?, value.as_ref()?)))
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_slab_is_a_map_with_numbers_of_its_own(steps in prop::collection::vec((any::<bool>(), any::<usize>()), 0..2000)) {
            let mut slab = Slab::new();
            let mut model: Vec<(RecordId, usize)> = Vec::new();
            for (insert, value) in steps {
                if insert || model.is_empty() {
                    let record_id = slab.insert(value);
                    prop_assert!(model.iter().all(|(known, _)| *known != record_id));
                    model.push((record_id, value));
                } else {
                    let (record_id, value) = model.swap_remove(value % model.len());
                    prop_assert_eq!(slab.remove(record_id), Some(value));
                    prop_assert_eq!(slab.get(record_id), None);
                    prop_assert_eq!(slab.remove(record_id), None);
                }
                prop_assert_eq!(slab.len(), model.len());
            }
            model.sort_unstable();
            prop_assert_eq!(slab.iter().map(|(record_id, value)| (record_id, *value)).collect::<Vec<_>>(), model);
        }
    }

    #[test]
    fn a_rush_leaves_no_memory_behind() {
        let mut slab = Slab::new();
        let record_ids: Vec<_> = (0..10 * CHUNK).map(|value| slab.insert(value)).collect();
        assert_eq!(slab.chunks.len(), 10);
        assert!(
            slab.iter()
                .map(|(record_id, _)| record_id)
                .eq(record_ids.iter().copied())
        );
        for record_id in record_ids {
            slab.remove(record_id);
        }
        assert!(slab.chunks.len() <= 10);
        assert!(slab.chunks.iter().flatten().count() <= 1);
        assert_eq!(slab.insert(7).get(), 1);
    }
}

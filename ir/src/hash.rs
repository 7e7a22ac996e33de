//! A hash of a model file that can be had in milliseconds.

use std::collections::BTreeSet;
use std::path::Path;

use prost::Message as _;

use crate::external::DataFiles;
use crate::load::{LoadError, map_file, wire_error};
use crate::place::Place;
use crate::proto::StringStringEntryProto;
use crate::wire::{self, Event};

/// The elements of a tensor do not count if they take at least so many bytes.
const LARGE: usize = 1024;

/// BLAKE3 of everything in a model file but the elements of large tensors.
///
/// What counts: the bytes of the file in order, without the contents of `raw_data` and of packed numbers where a tensor
/// has 1 KiB of them or more (their lengths count); after them the location and the size of each file with external
/// data, in the order of their names. So another graph, name, constant or shape gives another hash; other weights of
/// the same shapes do not. A file of the text format (`.onnxtxt`) counts as a whole.
///
/// # Errors
/// As for [`load`](crate::load), as far as bytes that are not decoded show it.
pub fn content_hash(path: &Path) -> Result<blake3::Hash, LoadError> {
    let (bytes, _) = map_file(path)?;
    if path.extension().is_some_and(|e| e == "onnxtxt") {
        return Ok(blake3::hash(&bytes));
    }
    wire::recognise(&bytes).map_err(|why| LoadError::NotOnnx { why })?;
    let mut hasher = blake3::Hasher::new();
    let mut done = 0;
    let mut locations = BTreeSet::new();
    let walked = wire::walk(&bytes, &mut |event| {
        match event {
            Event::Payload { start, end } if end - start >= LARGE => {
                hasher.update(&bytes[done..start]);
                done = end;
            }
            Event::ExternalEntry { start, end } => {
                let entry = StringStringEntryProto::decode(&bytes[start..end])?;
                if entry.key() == "location" {
                    locations.insert(entry.value.unwrap_or_default());
                }
            }
            Event::Payload { .. } | Event::Unknown { .. } => {}
        }
        Ok::<(), LoadError>(())
    });
    walked.map_err(|err| wire_error(err, bytes.len()))?;
    hasher.update(&bytes[done..]);
    let files = DataFiles::beside(path);
    for location in locations {
        let size = files.size(&location).map_err(|source| LoadError::External {
            at: Place::default().then(format!("file {location:?}")),
            source,
        })?;
        hasher.update(location.as_bytes()).update(&[0]).update(&size.to_le_bytes());
    }
    Ok(hasher.finalize())
}

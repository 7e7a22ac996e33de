//! External data: tensors whose elements are in files beside the model.
//!
//! tract reads such files too, but refuses a folder of links, which is what download caches make: there the data are
//! beside the file that the model's link points to. Both folders are fine here, and nothing outside of them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use tract_onnx::pb::{GraphProto, TensorProto, tensor_proto::DataLocation};

use super::EngineError;

/// Reads all external data of a graph into its tensors.
pub(super) fn load(graph: &mut GraphProto, model: &Path) -> Result<(), EngineError> {
    let parent = |path: &Path| {
        path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new(".")).to_owned()
    };
    let folder = parent(model);
    let real = model.canonicalize().map(|real| parent(&real));
    let allowed = [folder.canonicalize(), real].into_iter().flatten().collect();
    Folder { root: folder, allowed, open: HashMap::new() }.graph(graph)
}

struct Folder {
    root: PathBuf,
    /// Folders that data may be in, links resolved.
    allowed: Vec<PathBuf>,
    open: HashMap<String, File>,
}

impl Folder {
    fn graph(&mut self, graph: &mut GraphProto) -> Result<(), EngineError> {
        for tensor in &mut graph.initializer {
            self.tensor(tensor)?;
        }
        for attribute in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
            for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
                self.tensor(tensor)?;
            }
            for body in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                self.graph(body)?;
            }
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &mut TensorProto) -> Result<(), EngineError> {
        if tensor.data_location != Some(DataLocation::External as i32) {
            return Ok(());
        }
        tensor.raw_data = self
            .read(tensor)
            .map_err(|source| EngineError::External { tensor: tensor.name.clone(), source })?;
        tensor.data_location = None;
        tensor.external_data.clear();
        Ok(())
    }

    fn read(&mut self, tensor: &TensorProto) -> io::Result<Vec<u8>> {
        let entry = |key: &str| {
            tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str())
        };
        let number =
            |key| entry(key).map(|v| v.parse::<u64>().map_err(io::Error::other)).transpose();
        let location = entry("location").ok_or_else(|| io::Error::other("no location is given"))?;
        if !self.open.contains_key(location) {
            let file = File::open(self.path(location)?)?;
            self.open.insert(location.to_owned(), file);
        }
        let mut file = &self.open[location];
        file.seek(SeekFrom::Start(number("offset")?.unwrap_or(0)))?;
        let mut bytes = Vec::new();
        match number("length")? {
            Some(length) => {
                let read = file.take(length).read_to_end(&mut bytes)?;
                if read as u64 != length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            None => {
                file.read_to_end(&mut bytes)?;
            }
        }
        Ok(bytes)
    }

    fn path(&self, location: &str) -> io::Result<PathBuf> {
        let relative = Path::new(location);
        let plain =
            relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        let path = self.root.join(relative).canonicalize()?;
        if plain && self.allowed.iter().any(|folder| path.starts_with(folder)) {
            return Ok(path);
        }
        Err(io::Error::other(format!("{location:?} is outside of the model's folder")))
    }
}

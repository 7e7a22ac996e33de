//! One tensor, one file.

use std::fs::File;
use std::io::{self, BufWriter, Cursor, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use half::f16;
use npyz::WriterBuilder as _;
use onnxfix_ir::{DataType, Element, Tensor, tensor_from_bytes};

use crate::{SampleError, Slot};

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Packed little-endian elements.
    Bin,
    /// `NumPy`'s format, version 1.0.
    Npy,
    /// One line per row of the last dimension, elements with six decimals or as integers, as `numpy.savetxt` writes them.
    Text,
}

impl Format {
    /// Ending of a file's name.
    #[must_use]
    pub fn ending(self) -> &'static str {
        match self {
            Format::Bin => "bin",
            Format::Npy => "npy",
            Format::Text => "txt",
        }
    }
}

/// Kinds of files that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bin,
    Npy,
    Npz,
    Proto,
}

pub(crate) fn kind(path: &Path) -> Option<Kind> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    Some(match ending.as_str() {
        "bin" => Kind::Bin,
        "npy" => Kind::Npy,
        "npz" => Kind::Npz,
        "pb" => Kind::Proto,
        _ => return None,
    })
}

/// Reads a tensor from a `.bin`, `.npy` or `.pb` file. A `.bin` file says nothing of its elements: they are of the slot's
/// type, and the tensor has one dimension; for the other kinds the slot does not matter.
///
/// # Errors
/// When the file cannot be read or is not what its name says.
pub fn read(path: &Path, slot: &Slot) -> Result<Tensor, SampleError> {
    let bytes = || std::fs::read(path).map(Bytes::from).map_err(SampleError::io(path));
    match kind(path) {
        Some(Kind::Bin) => bin(path, bytes()?, slot),
        Some(Kind::Npy) => npy(path, &bytes()?),
        Some(Kind::Proto) => tensor_from_bytes(bytes()?)
            .map_err(|source| SampleError::Proto { path: path.to_path_buf(), source }),
        Some(Kind::Npz) | None => Err(SampleError::Kind(path.to_path_buf())),
    }
}

/// Reads the tensor of a name from an archive of `NumPy` arrays.
pub(crate) fn read_member(path: &Path, name: &str) -> Result<Tensor, SampleError> {
    let mut archive = open_archive(path)?;
    let has = members(&archive);
    let mut bytes = Vec::new();
    let found = match archive.by_name(&format!("{name}.npy")) {
        Ok(mut member) => member.read_to_end(&mut bytes),
        Err(_) => {
            return Err(SampleError::Absent { path: path.into(), name: name.to_owned(), has });
        }
    };
    found.map_err(SampleError::io(path))?;
    npy(path, &bytes.into())
}

/// Names of the arrays of an archive.
pub(crate) fn member_names(path: &Path) -> Result<Vec<String>, SampleError> {
    Ok(members(&open_archive(path)?))
}

fn open_archive(path: &Path) -> Result<zip::ZipArchive<File>, SampleError> {
    let file = File::open(path).map_err(SampleError::io(path))?;
    zip::ZipArchive::new(file).map_err(|e| damaged(path, format!("is no .npz archive: {e}")))
}

fn members(archive: &zip::ZipArchive<File>) -> Vec<String> {
    let names = archive.file_names().filter_map(Result::ok);
    let mut names: Vec<String> =
        names.filter_map(|name| Some(name.strip_suffix(".npy")?.to_owned())).collect();
    names.sort_unstable();
    names
}

fn damaged(path: &Path, why: impl Into<String>) -> SampleError {
    SampleError::Damaged { path: path.to_path_buf(), why: why.into() }
}

fn bin(path: &Path, bytes: Bytes, slot: &Slot) -> Result<Tensor, SampleError> {
    let size = slot.dtype.byte_len(1).filter(|&size| size > 0);
    let size = size.and_then(|size| usize::try_from(size).ok());
    let Some(count) =
        size.filter(|&size| bytes.len().is_multiple_of(size)).map(|s| bytes.len() / s)
    else {
        return Err(SampleError::Size {
            path: path.to_path_buf(),
            slot: slot.name.clone(),
            have: format!("{} bytes", bytes.len()),
            want: format!("whole elements of {}", slot.dtype),
        });
    };
    Tensor::from_raw(slot.dtype, &[count as i64], bytes).map_err(|e| damaged(path, e.to_string()))
}

fn npy(path: &Path, bytes: &Bytes) -> Result<Tensor, SampleError> {
    let mut reader = Cursor::new(&bytes[..]);
    let header = npyz::NpyHeader::from_reader(&mut reader)
        .map_err(|e| damaged(path, format!("is no .npy file: {e}")))?;
    let npyz::DType::Plain(ty) = header.dtype() else {
        return Err(damaged(path, "holds records, not plain numbers"));
    };
    let text = ty.to_string();
    let dtype = match text.trim_start_matches(['<', '|', '=']) {
        "f2" => DataType::Float16,
        "f4" => DataType::Float,
        "f8" => DataType::Double,
        "i1" => DataType::Int8,
        "i2" => DataType::Int16,
        "i4" => DataType::Int32,
        "i8" => DataType::Int64,
        "u1" => DataType::Uint8,
        "u2" => DataType::Uint16,
        "u4" => DataType::Uint32,
        "u8" => DataType::Uint64,
        "b1" => DataType::Bool,
        _ => {
            return Err(damaged(
                path,
                format!(
                    "holds elements of {text:?}; save them with .astype(np.float32) or np.int32"
                ),
            ));
        }
    };
    let dims: Vec<i64> = header.shape().iter().map(|&d| d as i64).collect();
    let long = dims.iter().filter(|&&d| d != 1).count() > 1;
    if header.order() == npyz::Order::Fortran && long {
        return Err(damaged(path, "is in Fortran order; save np.ascontiguousarray(array)"));
    }
    let start = usize::try_from(reader.position()).unwrap_or(usize::MAX).min(bytes.len());
    Tensor::from_raw(dtype, &dims, bytes.slice(start..)).map_err(|e| damaged(path, e.to_string()))
}

/// Gives elements the type that a slot takes: integers any integer type or bool that holds them, floats any float type.
/// `path` is named in errors.
///
/// # Errors
/// When an element does not fit, or integers and floats meet.
pub fn convert(path: &Path, tensor: Tensor, slot: &Slot) -> Result<Tensor, SampleError> {
    if tensor.dtype == slot.dtype {
        return Ok(tensor);
    }
    let refused = || SampleError::Type {
        path: path.to_path_buf(),
        slot: slot.name.clone(),
        have: tensor.dtype,
        want: slot.dtype,
    };
    let out_of_range = |at: usize, value: String| SampleError::Range {
        path: path.to_path_buf(),
        slot: slot.name.clone(),
        at,
        value,
        want: slot.dtype,
    };
    if tensor.dtype.is_float() && slot.dtype.is_float() {
        let floats = tensor.to_floats().ok_or_else(refused)?;
        #[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest")]
        return match slot.dtype {
            DataType::Float => {
                Ok(Tensor::new(&tensor.dims, floats.iter().map(|&x| x as f32).collect()))
            }
            DataType::Double => Ok(Tensor::new(&tensor.dims, floats)),
            DataType::Float16 => {
                let finite = |x: f64| !x.is_finite() || f16::from_f64(x).is_finite();
                if let Some(at) = floats.iter().position(|&x| !finite(x)) {
                    return Err(out_of_range(at, floats[at].to_string()));
                }
                Ok(Tensor::new(&tensor.dims, floats.iter().map(|&x| f16::from_f64(x)).collect()))
            }
            _ => Err(refused()),
        };
    }
    if tensor.dtype.is_float() || slot.dtype.is_float() {
        return Err(refused());
    }
    let ints = tensor.to_ints().ok_or_else(refused)?;
    let narrowed = match slot.dtype {
        DataType::Int64 => narrow::<i64>(&tensor.dims, &ints),
        DataType::Int32 => narrow::<i32>(&tensor.dims, &ints),
        DataType::Int16 => narrow::<i16>(&tensor.dims, &ints),
        DataType::Int8 => narrow::<i8>(&tensor.dims, &ints),
        DataType::Uint64 => narrow::<u64>(&tensor.dims, &ints),
        DataType::Uint32 => narrow::<u32>(&tensor.dims, &ints),
        DataType::Uint16 => narrow::<u16>(&tensor.dims, &ints),
        DataType::Uint8 => narrow::<u8>(&tensor.dims, &ints),
        DataType::Bool => match ints.iter().position(|i| !(0..=1).contains(i)) {
            Some(at) => Err(at),
            None => Ok(Tensor::new(&tensor.dims, ints.iter().map(|&i| i == 1).collect())),
        },
        _ => return Err(refused()),
    };
    narrowed.map_err(|at| out_of_range(at, ints[at].to_string()))
}

/// The position of the first element that does not fit is the error.
fn narrow<T: Element + TryFrom<i64>>(dims: &[i64], ints: &[i64]) -> Result<Tensor, usize> {
    let fit = |(at, &i): (usize, &i64)| T::try_from(i).map_err(|_| at);
    Ok(Tensor::new(dims, ints.iter().enumerate().map(fit).collect::<Result<Vec<T>, usize>>()?))
}

/// Writes a tensor. The file is there whole or not at all.
///
/// # Errors
/// When it cannot be written, or the format has no such elements.
pub fn write(path: &Path, tensor: &Tensor, format: Format) -> Result<(), SampleError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let partial = PathBuf::from(name);
    let written = write_to(&partial, path, tensor, format)
        .and_then(|()| std::fs::rename(&partial, path).map_err(SampleError::io(path)));
    if written.is_err() {
        // What could not be written is of no use, and may well be why the disk is full.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn write_to(
    partial: &Path,
    path: &Path,
    tensor: &Tensor,
    format: Format,
) -> Result<(), SampleError> {
    let unwritable = || SampleError::Unwritable { path: path.to_path_buf(), dtype: tensor.dtype };
    let raw = tensor.raw().map_err(|_| unwritable())?;
    let file = File::create(partial).map_err(SampleError::io(path))?;
    let mut out = BufWriter::new(file);
    match format {
        Format::Bin => out.write_all(&raw),
        Format::Npy => {
            let dims: Option<Vec<u64>> =
                tensor.dims.iter().map(|&d| u64::try_from(d).ok()).collect();
            let (Some(ty), Some(dims)) = (numpy_type(tensor.dtype), dims) else {
                return Err(unwritable());
            };
            npy_header(&mut out, ty, &dims).and_then(|()| out.write_all(&raw))
        }
        Format::Text => text(&mut out, tensor).ok_or_else(unwritable)?,
    }
    .and_then(|()| out.flush())
    .map_err(SampleError::io(path))
}

fn npy_header(out: &mut impl io::Write, ty: &str, dims: &[u64]) -> io::Result<()> {
    let ty: npyz::TypeStr = ty.parse().map_err(io::Error::other)?;
    let options = npyz::WriteOptions::new_header_only().dtype(npyz::DType::Plain(ty)).shape(dims);
    options.writer(out).write_header_only().map(|_| ())
}

fn numpy_type(dtype: DataType) -> Option<&'static str> {
    Some(match dtype {
        DataType::Float16 => "<f2",
        DataType::Float => "<f4",
        DataType::Double => "<f8",
        DataType::Int8 => "|i1",
        DataType::Int16 => "<i2",
        DataType::Int32 => "<i4",
        DataType::Int64 => "<i8",
        DataType::Uint8 => "|u1",
        DataType::Uint16 => "<u2",
        DataType::Uint32 => "<u4",
        DataType::Uint64 => "<u8",
        DataType::Bool => "|b1",
        _ => return None,
    })
}

/// None for elements that are no numbers.
fn text(out: &mut impl io::Write, tensor: &Tensor) -> Option<io::Result<()>> {
    let numbers: Vec<String> = if tensor.dtype.is_float() {
        tensor.to_floats()?.iter().map(|x| format!("{x:.6}")).collect()
    } else {
        tensor.to_ints()?.iter().map(ToString::to_string).collect()
    };
    let row = tensor.dims.last().and_then(|&d| usize::try_from(d).ok()).unwrap_or(1).max(1);
    Some(numbers.chunks(row).try_for_each(|row| writeln!(out, "{}", row.join(" "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(dtype: DataType) -> Slot {
        Slot { name: "x".to_owned(), dtype, dims: vec![1, 2] }
    }

    #[test]
    fn every_type_of_numpy_comes_back_as_it_was_written() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("x.npy");
        let mut written = 0;
        for &dtype in DataType::ALL {
            if numpy_type(dtype).is_none() {
                continue;
            }
            let size = usize::try_from(dtype.bits() / 8).expect("a size");
            let raw = Bytes::from(vec![1_u8; 6 * size]);
            let tensor = Tensor::from_raw(dtype, &[2, 1, 3], raw).expect("a tensor");
            write(&path, &tensor, Format::Npy).expect("written");
            assert_eq!(read(&path, &slot(DataType::Float)).expect("read"), tensor);
            written += 1;
        }
        assert_eq!(written, 12);
    }

    #[test]
    fn arrays_of_archives_are_found_by_name() {
        let root = tempfile::tempdir().expect("a folder");
        let (one, path) = (root.path().join("x.npy"), root.path().join("all.npz"));
        let tensor = Tensor::new(&[1, 2], vec![5_i64, 6]);
        write(&one, &tensor, Format::Npy).expect("written");
        let mut archive = zip::ZipWriter::new(File::create(&path).expect("a file"));
        for method in [zip::CompressionMethod::Stored, zip::CompressionMethod::Deflated] {
            let options = zip::write::SimpleFileOptions::default().compression_method(method);
            archive.start_file(format!("{method}.npy"), options).expect("a member");
            archive.write_all(&std::fs::read(&one).expect("the array")).expect("written");
        }
        archive.finish().expect("an archive");
        assert_eq!(member_names(&path).expect("names"), ["Deflated", "Stored"]);
        for name in ["Deflated", "Stored"] {
            assert_eq!(read_member(&path, name).expect("an array"), tensor);
        }
        let refused = read_member(&path, "ids").expect_err("refused").to_string();
        assert!(refused.ends_with("has no \"ids\"; it has Deflated, Stored"), "{refused}");
    }

    #[test]
    fn a_tensor_of_a_test_set_is_a_message() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("input_0.pb");
        // dims: 2, data_type: INT32, int32_data: 7, 8.
        std::fs::write(&path, [0x08, 2, 0x10, 6, 0x2a, 2, 7, 8]).expect("written");
        let tensor = read(&path, &slot(DataType::Int32)).expect("read");
        assert_eq!(tensor.to_ints(), Some(vec![7, 8]));
        std::fs::write(&path, [0x08, 3, 0x10, 6, 0x2a, 2, 7, 8]).expect("written");
        let refused = read(&path, &slot(DataType::Int32)).expect_err("refused").to_string();
        assert!(refused.ends_with("input_0.pb: is no TensorProto"), "{refused}");
    }

    #[test]
    fn damage_is_said_with_its_cure() {
        let root = tempfile::tempdir().expect("a folder");
        let path = root.path().join("x.npy");
        let header = |dict: &str| {
            let text = format!("{dict:<117}\n");
            [b"\x93NUMPY\x01\x00\x76\x00", text.as_bytes(), &[0; 16]].concat()
        };
        for (bytes, want) in [
            (b"nothing".to_vec(), "is no .npy file"),
            (header("{'descr': '>i4', 'fortran_order': False, 'shape': (4,), }"), "astype"),
            (header("{'descr': '<i4', 'fortran_order': True, 'shape': (2, 2), }"), "contiguous"),
            (header("{'descr': '<i4', 'fortran_order': False, 'shape': (5,), }"), "20"),
        ] {
            std::fs::write(&path, bytes).expect("written");
            let refused = read(&path, &slot(DataType::Int32)).expect_err("refused").to_string();
            assert!(refused.contains(want), "{refused}");
        }
    }
}

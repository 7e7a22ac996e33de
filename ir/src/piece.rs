//! Large runs of bytes in pieces: from mapped files without keeping their pages in memory, and to files.

use std::fs::File;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::{mem, thread};

use bytemuck::Pod;

use crate::map::Origin;

/// Bytes written at a time. Pieces of this size stay in the cache of a processor between being read and being written;
/// in measurements larger ones and the system's own copying from file to file, which goes page by page where the two
/// places are not aligned alike, took up to twice the time.
pub(crate) const PIECE: usize = 256 << 10;
/// Shorter views are taken from the mapping. The system maps many pages around the one that is touched, so that biases
/// between large weights would bring a tenth of the file into memory.
const MIN_READ: usize = 64;

/// Reads parts of bytes, from the file where they are a view of a mapped one.
pub(crate) struct PieceReader<'a> {
    bytes: &'a [u8],
    origin: Option<Origin>,
    piece: Vec<u8>,
}

impl<'a> PieceReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> PieceReader<'a> {
        let origin = if bytes.len() < MIN_READ { None } else { Origin::of(bytes) };
        PieceReader { bytes, origin, piece: Vec::new() }
    }

    /// The bytes from `start` on, `len` of them.
    pub(crate) fn read(&mut self, start: usize, len: usize) -> &[u8] {
        if let Some(origin) = &self.origin {
            self.piece.resize(len, 0);
            // The mapping tells what a file cannot that is gone, or that was cut off.
            if origin.read_at(start, &mut self.piece).is_ok() {
                return &self.piece;
            }
        }
        &self.bytes[start..start + len]
    }
}

/// Packed elements as a vector of them; those of a mapped file are read from it.
pub(crate) fn aligned<T: Pod>(raw: &[u8]) -> Vec<T> {
    let mut elements = vec![T::zeroed(); raw.len() / size_of::<T>()];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut elements);
    copy(&raw[..bytes.len()], [bytes]);
    elements
}

/// Rows of `from` bytes with zeros behind each up to `to` bytes; those of a mapped file are read from it.
pub(crate) fn padded_rows(raw: &[u8], from: usize, to: usize) -> Vec<u8> {
    let mut padded = vec![0; raw.len() / from * to];
    copy(raw, padded.chunks_exact_mut(to).map(|row| &mut row[..from]));
    padded
}

/// Fills one destination after the other, from the file where the bytes are a view of a mapped one.
fn copy<'a>(raw: &[u8], into: impl IntoIterator<Item = &'a mut [u8]>) {
    let origin = if raw.len() < MIN_READ { None } else { Origin::of(raw) };
    let mut done = 0;
    for into in into {
        let end = done + into.len();
        if origin.as_ref().is_none_or(|origin| origin.read_at(done, into).is_err()) {
            into.copy_from_slice(&raw[done..end]);
        }
        done = end;
    }
}

/// Whether both are the same bytes.
pub(crate) fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    if a.as_ptr() == b.as_ptr() {
        return true;
    }
    !differs_in(a, b, |x, y| x != y)
}

/// Whether `differs` finds a difference in a pair of pieces of two runs of bytes of one length. It sees one pair after
/// the other, up to the first that differs; all but the last are of the same length, a multiple of every element's.
pub(crate) fn differs_in(
    a: &[u8],
    b: &[u8],
    mut differs: impl FnMut(&[u8], &[u8]) -> bool,
) -> bool {
    let (mut x, mut y) = (PieceReader::new(a), PieceReader::new(b));
    (0..a.len()).step_by(PIECE).any(|start| {
        let len = PIECE.min(a.len() - start);
        differs(x.read(start, len), y.read(start, len))
    })
}

/// Pieces on their way to the file: one being filled, one being written, two between.
const PIECES: usize = 4;

/// Fills pieces of one size, each of which begins in the file at a multiple of it.
pub(crate) struct PieceWriter {
    piece: Box<[u8]>,
    /// Bytes of the piece that are there.
    filled: usize,
    full: SyncSender<(Box<[u8]>, usize)>,
    /// Pieces that were written and can be filled again.
    written: Receiver<Box<[u8]>>,
}

/// Writes what `fill` gives out to a file and lets the hasher have it. Reading and writing overlap: a thread of its own
/// writes the pieces, since copying to and from the system's cache is what takes the time.
pub(crate) fn write_in_pieces(
    mut file: File,
    mut hasher: Option<&mut blake3::Hasher>,
    fill: impl FnOnce(&mut PieceWriter) -> io::Result<()>,
) -> io::Result<()> {
    let (full, to_write) = mpsc::sync_channel::<(Box<[u8]>, usize)>(PIECES);
    let (done, written) = mpsc::sync_channel(PIECES);
    let empty = || Box::from(vec![0; PIECE]);
    for _ in 1..PIECES {
        let _room_for_all = done.try_send(empty());
    }
    let write = move || -> io::Result<()> {
        for (piece, filled) in to_write {
            file.write_all(&piece[..filled])?;
            if let Some(hasher) = &mut hasher {
                hasher.update(&piece[..filled]);
            }
            // Nobody takes the last ones back.
            let _taken = done.send(piece);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let writer = thread::Builder::new().spawn_scoped(scope, write)?;
        let mut out = PieceWriter { piece: empty(), filled: 0, full, written };
        let filled = fill(&mut out).and_then(|()| out.flush());
        // Tells the other thread that there is no more.
        drop(out);
        // When writing fails, filling fails for the lack of somebody to write.
        writer.join().unwrap_or_else(|panic| resume_unwind(panic)).and(filled)
    })
}

impl PieceWriter {
    /// Writes bytes; those that are a view of a mapped file are read from that file, so that none of them stay in
    /// memory. A file that changed since it was mapped is an error.
    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let origin = if bytes.len() < MIN_READ { None } else { Origin::of(bytes) };
        let Some(origin) = origin else { return self.write_all(bytes) };
        let mut done = 0;
        while done < bytes.len() {
            let step = (PIECE - self.filled).min(bytes.len() - done);
            origin.read_at(done, &mut self.piece[self.filled..][..step])?;
            done += step;
            self.advance(step)?;
        }
        origin.ensure_unchanged()
    }

    fn advance(&mut self, step: usize) -> io::Result<()> {
        self.filled += step;
        if self.filled < PIECE { Ok(()) } else { self.flush() }
    }
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let step = (PIECE - self.filled).min(bytes.len());
        self.piece[self.filled..][..step].copy_from_slice(&bytes[..step]);
        self.advance(step)?;
        Ok(step)
    }

    fn flush(&mut self) -> io::Result<()> {
        let stopped = || io::Error::from(io::ErrorKind::BrokenPipe);
        let piece = mem::replace(&mut self.piece, self.written.recv().map_err(|_| stopped())?);
        self.full.send((piece, mem::take(&mut self.filled))).map_err(|_| stopped())
    }
}

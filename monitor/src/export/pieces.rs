//! Hands a long text on in pieces, so that memory does not grow with its length.

use std::mem;

/// Bytes of one piece.
const PIECE: usize = 64 * 1024;
/// Room for a piece and the rows that make it longer than [`PIECE`].
const ROOM: usize = PIECE + 1024;

/// The text that is not handed on yet, and where it goes.
pub(super) struct Pieces<F> {
    /// The next rows are appended here.
    pub(super) text: String,
    send: F,
}

impl<F: FnMut(String) -> bool> Pieces<F> {
    /// No text yet. `send` returns whether anybody still reads.
    pub(super) fn new(send: F) -> Self {
        Self { text: String::with_capacity(ROOM), send }
    }

    /// Hands the text on if it is long enough; returns whether anybody still reads.
    pub(super) fn flush(&mut self) -> bool {
        self.text.len() < PIECE || (self.send)(mem::replace(&mut self.text, String::with_capacity(ROOM)))
    }

    /// Hands the rest on.
    pub(super) fn finish(mut self) {
        (self.send)(self.text);
    }
}

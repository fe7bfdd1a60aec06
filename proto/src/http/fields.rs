//! The field lines of a head: one buffer, and where in it each name and value lies.

use super::{
    head::{HeadError, HeadLimits, Refusal},
    syntax,
};
use crate::limits;

/// Where a field line's name and value lie. 16 bits: no head is longer than [`limits::HTTP_HEAD_BYTES_CEILING`].
#[derive(Debug, Clone, Copy)]
struct Span {
    name: (u16, u16),
    value: (u16, u16),
}

/// The field lines of a head, in their order. Names are tokens, values hold no control character but HTAB.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    raw: Vec<u8>,
    spans: Vec<Span>,
}

impl Fields {
    /// Reads the field lines of `head`, which is whole, from `from` to its last empty line, into the memory of an earlier
    /// head.
    pub(super) fn parse(
        mut memory: Self,
        head: &[u8],
        from: usize,
        head_limits: &HeadLimits,
    ) -> Result<Self, HeadError> {
        debug_assert!(head.len() <= limits::HTTP_HEAD_BYTES_CEILING, "a head is measured first");
        let mut lines = [httparse::EMPTY_HEADER; limits::HTTP_FIELDS_MAX];
        let lines = match httparse::parse_headers(&head[from..], &mut lines) {
            Ok(httparse::Status::Complete((used, lines))) if from + used == head.len() => lines,
            Err(httparse::Error::TooManyHeaders) => return Err(Refusal::ManyFields.into()),
            Ok(_) | Err(_) => return Err(Refusal::FieldLine.into()),
        };
        if lines.len() > head_limits.fields() {
            return Err(Refusal::ManyFields.into());
        }
        memory.raw.clear();
        memory.raw.extend_from_slice(head);
        memory.spans.clear();
        memory.spans.extend(lines.iter().map(|line| Span {
            name: place(head, line.name.as_bytes()),
            value: place(head, line.value),
        }));
        Ok(memory)
    }

    /// Bytes of memory that it has.
    pub(super) fn capacity(&self) -> usize {
        self.raw.capacity() + self.spans.capacity() * size_of::<Span>()
    }

    /// The head as it came, first line included.
    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Where `part`, a slice of the head as kept here, lies in it.
    pub(super) fn place(&self, part: &[u8]) -> (u16, u16) {
        place(&self.raw, part)
    }

    fn part(&self, (start, end): (u16, u16)) -> &[u8] {
        &self.raw[usize::from(start)..usize::from(end)]
    }

    fn text(&self, span: (u16, u16)) -> &str {
        std::str::from_utf8(self.part(span)).unwrap_or_default()
    }

    /// Every field line: name as it came, value without the white space around it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        self.spans.iter().map(|span| (self.text(span.name), self.part(span.value)))
    }

    /// The values of every line with this name, in any case.
    pub fn all<'a, 'n>(
        &'a self,
        name: &'n str,
    ) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a, 'n> {
        self.spans
            .iter()
            .filter(move |span| self.part(span.name).eq_ignore_ascii_case(name.as_bytes()))
            .map(|span| self.part(span.value))
    }

    /// The value of the first line with this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The value of the only line with this name; `None` where there is none, or more than one, so that a field that
    /// may stand once is not read in two ways.
    pub fn only(&self, name: &str) -> Option<&[u8]> {
        let mut lines = self.all(name);
        let first = lines.next();
        if lines.next().is_some() { None } else { first }
    }

    /// Whether a line with this name is there.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether the lists of all lines with this name have the member `token`, in any case.
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .flat_map(syntax::list)
            .any(|member| member.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// How many lines.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

/// Where `part`, a slice of `whole`, lies in it. An empty one lies at 0, wherever it points.
fn place(whole: &[u8], part: &[u8]) -> (u16, u16) {
    if part.is_empty() {
        return (0, 0);
    }
    let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    debug_assert!(start + part.len() <= whole.len(), "a part lies in its whole");
    (start as u16, (start + part.len()) as u16)
}

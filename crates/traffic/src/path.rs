//! Path normalization and path templates.

use crate::Str;

/// A path that cannot be normalized: 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("path cannot be normalized")]
pub struct BadPath;

/// Resolves dot segments and normalizes percent-encoding (RFC 3986), query kept. `None` when nothing changes.
///
/// # Errors
/// When a percent escape is malformed or the path does not begin with a slash.
pub fn normalize(path_and_query: &[u8]) -> Result<Option<Vec<u8>>, BadPath> {
    let end = path_and_query
        .iter()
        .position(|b| matches!(b, b'?' | b'#'))
        .unwrap_or(path_and_query.len());
    let (path, tail) = path_and_query.split_at(end);
    if path.first() != Some(&b'/') {
        return Err(BadPath);
    }
    let decoded = normalize_escapes(path)?;
    if !has_dot_segment(&decoded) {
        let unchanged = decoded == path;
        return Ok((!unchanged).then(|| [&decoded, tail].concat()));
    }
    let mut out: Vec<&[u8]> = Vec::new();
    let segments: Vec<&[u8]> = decoded[1..].split(|b| *b == b'/').collect();
    let last = segments.len() - 1;
    for (position, segment) in segments.iter().enumerate() {
        match *segment {
            b"." if position == last => out.push(b""),
            b"." => {}
            b".." => {
                out.pop();
                if position == last {
                    out.push(b"");
                }
            }
            other => out.push(other),
        }
    }
    let mut new = Vec::with_capacity(path_and_query.len());
    for segment in &out {
        new.push(b'/');
        new.extend_from_slice(segment);
    }
    if new.is_empty() {
        new.push(b'/');
    }
    new.extend_from_slice(tail);
    Ok(Some(new))
}

fn has_dot_segment(path: &[u8]) -> bool {
    path.split(|b| *b == b'/')
        .any(|segment| segment == b"." || segment == b"..")
}

fn hex(byte: u8) -> Option<u8> {
    (byte as char)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

/// Decodes escapes of unreserved bytes and leaves the others as they are written, malformed ones too; an escaped
/// zero byte is refused; a backslash becomes a slash.
fn normalize_escapes(path: &[u8]) -> Result<Vec<u8>, BadPath> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'%' => {
                let (Some(high), Some(low)) = (
                    rest.first().copied().and_then(hex),
                    rest.get(1).copied().and_then(hex),
                ) else {
                    out.push(b'%');
                    continue;
                };
                let written = &rest[..2];
                rest = &rest[2..];
                let value = high * 16 + low;
                if value.is_ascii_alphanumeric() || matches!(value, b'-' | b'.' | b'_' | b'~') {
                    out.push(value);
                } else if value == 0 {
                    return Err(BadPath);
                } else {
                    out.push(b'%');
                    out.extend_from_slice(written);
                }
            }
            b'\\' => out.push(b'/'),
            other => out.push(*other),
        }
    }
    Ok(out)
}

/// Makes one slash of several in the path. `None` when nothing changes.
#[must_use]
pub fn merge_slashes(path_and_query: &[u8]) -> Option<Vec<u8>> {
    let end = path_and_query
        .iter()
        .position(|b| *b == b'?')
        .unwrap_or(path_and_query.len());
    let (path, tail) = path_and_query.split_at(end);
    if !path.windows(2).any(|pair| pair == b"//") {
        return None;
    }
    let mut out = Vec::with_capacity(path_and_query.len());
    for byte in path {
        if *byte != b'/' || out.last() != Some(&b'/') {
            out.push(*byte);
        }
    }
    out.extend_from_slice(tail);
    Some(out)
}

/// Unescapes `%2F` and `%5C` in the path. `None` when there is none.
#[must_use]
pub fn unescape_slashes(path_and_query: &[u8]) -> Option<Vec<u8>> {
    let end = path_and_query
        .iter()
        .position(|b| *b == b'?')
        .unwrap_or(path_and_query.len());
    let escaped = |window: &[u8]| match window {
        [b'%', b'2', b'f' | b'F'] => Some(b'/'),
        [b'%', b'5', b'c' | b'C'] => Some(b'\\'),
        _ => None,
    };
    let path = &path_and_query[..end];
    if !path.windows(3).any(|w| escaped(w).is_some()) {
        return None;
    }
    let mut out = Vec::with_capacity(path_and_query.len());
    let mut at = 0;
    while at < path.len() {
        match path.get(at..at + 3).and_then(escaped) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out.extend_from_slice(&path_and_query[end..]);
    Some(out)
}

/// A path template: literal segments, `{name}`, `{name=pattern}`, `*` and `**`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    kind: SegmentKind,
    /// Variable that this segment belongs to.
    variable: Option<Str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SegmentKind {
    Literal(Str),
    One,
    Rest,
}

/// A rewrite template: literals and `{name}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateRewrite {
    parts: Vec<RewritePart>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RewritePart {
    Literal(Str),
    Variable(Str),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let body = text
            .strip_prefix('/')
            .ok_or("a path template begins with a slash")?;
        let mut segments = Vec::new();
        let mut rest = body;
        loop {
            let (part, tail) = next_part(rest)?;
            Self::parse_part(part, &mut segments)?;
            match tail {
                Some(tail) => rest = tail,
                None => break,
            }
        }
        let rests = segments
            .iter()
            .filter(|s| s.kind == SegmentKind::Rest)
            .count();
        let after_rest = segments
            .iter()
            .skip_while(|s| s.kind != SegmentKind::Rest)
            .skip(1);
        if rests > 1 || after_rest.into_iter().any(|s| s.kind == SegmentKind::One) {
            return Err("** must be the last operator of a path template".to_owned());
        }
        Ok(Self { segments })
    }

    fn parse_part(part: &str, segments: &mut Vec<Segment>) -> Result<(), String> {
        let kind_of = |text: &str| match text {
            "*" => Ok(SegmentKind::One),
            "**" => Ok(SegmentKind::Rest),
            literal if literal.contains(['*', '{', '}']) => Err(format!(
                "{literal} mixes literals and operators in one segment"
            )),
            literal => Ok(SegmentKind::Literal(literal.into())),
        };
        let Some(inner) = part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) else {
            segments.push(Segment {
                kind: kind_of(part)?,
                variable: None,
            });
            return Ok(());
        };
        // Istio writes {*} and {**}: operators without a name.
        let (name, pattern) = match inner.split_once('=') {
            Some((name, pattern)) => (Some(Str::from(name)), pattern),
            None if inner.starts_with('*') => (None, inner),
            None => (Some(Str::from(inner)), "*"),
        };
        for piece in pattern.split('/') {
            segments.push(Segment {
                kind: kind_of(piece)?,
                variable: name.clone(),
            });
        }
        Ok(())
    }

    /// Whether a path (without query) matches.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        self.bind(path).is_some()
    }

    /// The path's share of each template segment.
    fn bind<'p>(&self, path: &'p [u8]) -> Option<Vec<Vec<&'p [u8]>>> {
        let parts: Vec<&[u8]> = path.strip_prefix(b"/")?.split(|b| *b == b'/').collect();
        let rest_at = self
            .segments
            .iter()
            .position(|s| s.kind == SegmentKind::Rest);
        let fixed = self.segments.len() - usize::from(rest_at.is_some());
        let taken = match rest_at {
            Some(_) => parts.len().checked_sub(fixed)?,
            None if parts.len() == fixed => 0,
            None => return None,
        };
        let mut bound = Vec::with_capacity(self.segments.len());
        let mut at = 0;
        for segment in &self.segments {
            let width = if segment.kind == SegmentKind::Rest {
                taken
            } else {
                1
            };
            let share = &parts[at..at + width];
            let fits = match &segment.kind {
                SegmentKind::Literal(text) => share[0] == text.as_bytes(),
                SegmentKind::One => !share[0].is_empty(),
                SegmentKind::Rest => true,
            };
            if !fits {
                return None;
            }
            bound.push(share.to_vec());
            at += width;
        }
        Some(bound)
    }
}

/// Splits at the next slash outside braces.
fn next_part(text: &str) -> Result<(&str, Option<&str>), String> {
    let mut depth = 0_i32;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            '/' if depth == 0 => return Ok((&text[..at], Some(&text[at + 1..]))),
            _ => {}
        }
        if !(0..=1).contains(&depth) {
            return Err("braces of a path template do not nest".to_owned());
        }
    }
    if depth == 0 {
        Ok((text, None))
    } else {
        Err("a brace of a path template is not closed".to_owned())
    }
}

impl TemplateRewrite {
    /// Reads a rewrite template.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str, template: &Template) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            let close = rest[open..]
                .find('}')
                .ok_or("a brace of the rewrite is not closed")?
                + open;
            if open > 0 {
                parts.push(RewritePart::Literal(rest[..open].into()));
            }
            let name = &rest[open + 1..close];
            if !template
                .segments
                .iter()
                .any(|s| s.variable.as_deref() == Some(name))
            {
                return Err(format!(
                    "the rewrite names {name}, which the path template does not"
                ));
            }
            parts.push(RewritePart::Variable(name.into()));
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(RewritePart::Literal(rest.into()));
        }
        Ok(Self { parts })
    }

    /// The new path; `None` when the path does not match the template.
    #[must_use]
    pub fn apply(&self, template: &Template, path: &[u8]) -> Option<Vec<u8>> {
        let bound = template.bind(path)?;
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                RewritePart::Literal(text) => out.extend_from_slice(text.as_bytes()),
                RewritePart::Variable(name) => {
                    let shares = template.segments.iter().zip(&bound);
                    let of_name =
                        shares.filter(|(segment, _)| segment.variable.as_ref() == Some(name));
                    let pieces: Vec<&[u8]> = of_name
                        .flat_map(|(_, share)| share.iter().copied())
                        .collect();
                    out.extend_from_slice(&pieces.join(&b'/'));
                }
            }
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_and_escapes_are_normalized() {
        let norm = |p: &str| {
            normalize(p.as_bytes())
                .unwrap()
                .map(|v| String::from_utf8(v).unwrap())
        };
        assert_eq!(norm("/a/../b?x=/../y"), Some("/b?x=/../y".into()));
        assert_eq!(norm("/a/./b/.."), Some("/a/".into()));
        assert_eq!(norm("/../.."), Some("/".into()));
        assert_eq!(norm("/%61%2f"), Some("/a%2f".into()));
        assert_eq!(norm("/a\\b"), Some("/a/b".into()));
        assert_eq!(norm("/a/b"), None);
        // What is no escape stays as it is.
        assert_eq!(normalize(b"/%zz"), Ok(None));
        assert_eq!(normalize(b"*"), Err(BadPath));
    }

    #[test]
    fn slashes_are_merged_and_unescaped_in_the_path_only() {
        assert_eq!(merge_slashes(b"//a///b?x=//"), Some(b"/a/b?x=//".to_vec()));
        assert_eq!(merge_slashes(b"/a"), None);
        assert_eq!(
            unescape_slashes(b"/a%2Fb%5cc?%2f"),
            Some(b"/a/b\\c?%2f".to_vec())
        );
    }

    #[test]
    fn templates_match_whole_segments() {
        let template = Template::parse("/api/{version}/{rest=**}").unwrap();
        assert!(template.matches(b"/api/v1/a/b"));
        assert!(!template.matches(b"/api"));
        assert!(!template.matches(b"/other/v1/a"));
        let rewrite = TemplateRewrite::parse("/{rest}/of/{version}", &template).unwrap();
        assert_eq!(
            rewrite.apply(&template, b"/api/v1/a/b").unwrap(),
            b"/a/b/of/v1"
        );
        assert!(TemplateRewrite::parse("/{nope}", &template).is_err());
    }

    #[test]
    fn operators_without_a_name_match_as_istio_writes_them() {
        let one = Template::parse("/a/{*}/c").unwrap();
        assert!(one.matches(b"/a/b/c"));
        assert!(!one.matches(b"/a/b/x/c"));
        let rest = Template::parse("/a/{**}").unwrap();
        assert!(rest.matches(b"/a/b/c"));
        assert!(Template::parse("/{**}/{*}").is_err());
        assert!(Template::parse("/a*b").is_err());
    }
}

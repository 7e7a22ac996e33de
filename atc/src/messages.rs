//! Errors and warnings in what ATC prints.

use serde::Serialize;

/// How bad a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The compilation failed.
    Error,
    /// It may run slower or otherwise than wanted.
    Warning,
}

/// An error or a warning with a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// Its code: `E16002`.
    pub code: String,
    /// How bad it is: codes of warnings begin with W.
    pub severity: Severity,
    /// What it says.
    pub text: String,
    /// What ATC takes for its cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// What ATC proposes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solution: Option<String>,
    /// Lines of the trace, the most recent call first. Further operators with the same fault are named only here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trace: Vec<String>,
}

/// Reads the messages out of what ATC printed. Known spellings: `E19010: text` (to 7.x), `E20001: [PID: 7] date text` (8.x),
/// and `[PID: 7] date Title(E20001): text`; lines that follow, indented, belong to a message.
#[must_use]
pub fn parse_messages(output: &str) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    let mut in_trace = false;
    for line in output.lines() {
        if let Some((code, text)) = head(line) {
            let severity = if code.starts_with('W') { Severity::Warning } else { Severity::Error };
            let (code, text) = (code.to_owned(), text.to_owned());
            let message =
                Message { code, severity, text, cause: None, solution: None, trace: Vec::new() };
            messages.push(message);
            in_trace = false;
            continue;
        }
        let Some(message) = messages.last_mut() else { continue };
        let text = line.trim();
        if text.is_empty() || !line.starts_with(char::is_whitespace) {
            continue;
        }
        if let Some(cause) = text.strip_prefix("Possible Cause:") {
            message.cause = named(cause);
        } else if let Some(solution) = text.strip_prefix("Solution:") {
            message.solution = named(solution);
        } else if text.starts_with("TraceBack") {
            in_trace = true;
        } else if in_trace || message.cause.is_some() || message.solution.is_some() {
            message.trace.push(text.to_owned());
        } else if message.text.is_empty() {
            text.clone_into(&mut message.text);
        } else {
            message.trace.push(text.to_owned());
        }
    }
    messages
}

/// A text unless it says that there is none.
fn named(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text != "N/A").then(|| text.to_owned())
}

/// The code and the text of a line that begins a message.
fn head(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_end();
    if let Some((code, text)) = line.split_once(':')
        && is_code(code)
    {
        return Some((code, after_process(text.trim_start())));
    }
    let rest = after_process(line);
    if rest.len() == line.len() {
        return None;
    }
    let (title, text) = rest.split_once("):")?;
    let (_, code) = title.rsplit_once('(')?;
    is_code(code).then_some((code, text.trim_start()))
}

/// What follows `[PID: 7] 2025-06-16-13:02:36.801.136`, if that is there.
fn after_process(text: &str) -> &str {
    let Some((_, rest)) = text.strip_prefix("[PID:").and_then(|rest| rest.split_once(']')) else {
        return text;
    };
    let rest = rest.trim_start();
    match rest.split_once(' ') {
        Some((date, text)) if date.starts_with(|c: char| c.is_ascii_digit()) => text.trim_start(),
        _ => rest,
    }
}

/// `E10016`, `EZ3003`, `W11001`.
fn is_code(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 6
        && matches!(bytes[0], b'E' | b'W')
        && (bytes[1].is_ascii_uppercase() || bytes[1].is_ascii_digit())
        && bytes[2..].iter().all(u8::is_ascii_digit)
}

/// The process that a message is of, where it says so.
pub(crate) fn processes(output: &str) -> Vec<u32> {
    let mut found: Vec<u32> = output
        .split("[PID:")
        .skip(1)
        .filter_map(|rest| rest.split(']').next()?.trim().parse().ok())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    // The spellings of CANN 5 to 7, of 8.x, and of the open sources, with made-up texts.
    const OUTPUT: &str = "\
ATC start working now, please wait for a moment.
.....
ATC run failed, Please check the detail log, Try 'atc --help' for more information
E19010: No parser is registered for Op [a/Gelu_1, optype [ai.onnx::20::Gelu]].
        Solution: Check the version.
        TraceBack (most recent call last):
        No parser is registered for Op [a/Gelu_2, optype [ai.onnx::20::Gelu]].
        ATC model parse ret fail.[FUNC:ParseGraph][FILE:omg.cc][LINE:787]
E20001: [PID: 200452] 2025-06-16-13:02:36.801.136 Failed to compile Op [s]. (optype: [StridedSliceD])
        Possible Cause: The operator has an invalid argument.
        Solution: N/A
[PID: 12] 2026-01-02-03:04:05.678.901 Not_Supported_Operator(EZ3003): No engine for n
W11001: Op [g] does not hit the high-priority operator information library.
";

    #[test]
    fn every_spelling_is_read() {
        let messages = parse_messages(OUTPUT);
        let heads: Vec<_> = messages.iter().map(|m| (m.code.as_str(), m.text.as_str())).collect();
        assert_eq!(
            heads,
            [
                (
                    "E19010",
                    "No parser is registered for Op [a/Gelu_1, optype [ai.onnx::20::Gelu]]."
                ),
                ("E20001", "Failed to compile Op [s]. (optype: [StridedSliceD])"),
                ("EZ3003", "No engine for n"),
                ("W11001", "Op [g] does not hit the high-priority operator information library."),
            ]
        );
        assert_eq!(messages[0].solution.as_deref(), Some("Check the version."));
        assert_eq!(messages[0].trace.len(), 2);
        assert_eq!(messages[1].cause.as_deref(), Some("The operator has an invalid argument."));
        assert_eq!(messages[1].solution, None);
        assert_eq!(messages[3].severity, Severity::Warning);
        assert_eq!(processes(OUTPUT), [12, 200_452]);
    }

    #[test]
    fn other_lines_are_no_messages() {
        assert_eq!(
            parse_messages("E1: x\nEVENTS: 3\n[PID: 3] hello\nE10016 without a colon\n"),
            []
        );
    }
}

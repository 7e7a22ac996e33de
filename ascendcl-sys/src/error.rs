//! A call that failed.

use std::ffi::CStr;
use std::fmt;

use crate::codes::code;
use crate::functions::Api;
use crate::types::{ACL_SUCCESS, aclError};

/// A call that failed, with what the library says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The function.
    pub call: &'static str,
    /// The code that it returned; none where it returned null.
    pub code: Option<i32>,
    /// What the library itself says, on one line; empty if nothing.
    pub message: String,
}

impl Error {
    /// What went wrong in a call that has just failed in this thread.
    #[must_use]
    pub fn recent(api: &Api, call: &'static str, code: Option<i32>) -> Error {
        // SAFETY: the function takes nothing and may be called at any time.
        let text = unsafe { (api.aclGetRecentErrMsg)() };
        let message = if text.is_null() {
            String::new()
        } else {
            // SAFETY: not null, so a text of the library that ends with a zero and stays until the next call.
            let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        Error { call, code, message }
    }

    /// An error unless the code is that of success.
    ///
    /// # Errors
    /// With what the library says about the code.
    pub fn check(api: &Api, call: &'static str, code: aclError) -> Result<(), Error> {
        match code {
            ACL_SUCCESS => Ok(()),
            _ => Err(Error::recent(api, call, Some(code))),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            None => write!(f, "{} gave nothing", self.call)?,
            Some(number) => {
                write!(f, "{} failed with {number}", self.call)?;
                if let Some(code) = code(number) {
                    write!(f, " ({}): {}", code.name, code.meaning)?;
                }
            }
        }
        if !self.message.is_empty() {
            write!(f, "; AscendCL says: {}", self.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_its_code_means() {
        let error = |code, message: &str| {
            Error { call: "aclrtMalloc", code, message: message.into() }.to_string()
        };
        assert_eq!(
            error(Some(107_002), "EE1001: null"),
            "aclrtMalloc failed with 107002 (ACL_ERROR_RT_CONTEXT_NULL): this thread has no context; AscendCL says: EE1001: null"
        );
        assert_eq!(error(Some(3), ""), "aclrtMalloc failed with 3");
        assert_eq!(error(None, ""), "aclrtMalloc gave nothing");
    }
}

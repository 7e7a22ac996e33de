//! The declarations of this crate in C.

use std::cell::RefCell;
use std::fmt::Write as _;

use crate::codes::CODES;
use crate::functions::FUNCTIONS;
use crate::types::{DEFINES, ENUMERATIONS, LAYOUTS, OPAQUE, TEXTS};

/// A header with all that this crate declares, for programs in C that are to meet the same library.
#[must_use]
pub fn header() -> String {
    let mut out = String::from(
        "#pragma once\n#include <stddef.h>\n#include <stdint.h>\n\ntypedef int aclError;\n#define ACL_SUCCESS 0\n\
         typedef void *aclrtContext, *aclrtStream, *aclrtEvent;\n",
    );
    for name in OPAQUE {
        let _ = writeln!(out, "typedef struct {name} {name};");
    }
    for one in ENUMERATIONS {
        let values: Vec<String> =
            one.values.iter().map(|(name, number)| format!("{name} = {number}")).collect();
        let _ = writeln!(out, "typedef enum {{ {} }} {};", values.join(", "), one.name);
    }
    for (name, number) in DEFINES {
        let _ = writeln!(out, "#define {name} {number}");
    }
    for (name, text) in TEXTS {
        let _ = writeln!(out, "#define {name} \"{text}\"");
    }
    for layout in LAYOUTS {
        let _ = writeln!(out, "typedef struct {{");
        for field in layout.fields {
            let (ty, array) = field.ty.split_at(field.ty.find('[').unwrap_or(field.ty.len()));
            let _ = writeln!(out, "  {ty} {}{array};", field.name);
        }
        let _ = writeln!(out, "}} {};", layout.name);
    }
    for code in CODES {
        let _ = writeln!(out, "#define {} {}", code.name, code.code);
    }
    for function in FUNCTIONS {
        let _ = writeln!(out, "{}", (function.prototype)());
    }
    out
}

/// What [`check`] is made of.
#[derive(Debug)]
pub struct Check {
    /// A program that includes `acl/acl.h`, prints a line for whatever has another value, and at last how much it compared.
    pub program: String,
    /// What the header does not declare, which is not compared.
    pub absent: Vec<String>,
}

/// A program that compares what this crate declares with another header. `declares` says whether that has a name.
///
/// Prototypes are declared a second time behind the header's own, so that the compiler refuses one that differs.
#[must_use]
pub fn check(declares: &dyn Fn(&str) -> bool) -> Check {
    let absent = RefCell::new(Vec::new());
    let has = |name: &str| {
        let has = declares(name);
        if !has {
            absent.borrow_mut().push(name.to_owned());
        }
        has
    };
    let mut prototypes = String::new();
    let mut count = 0;
    for function in FUNCTIONS {
        if has(function.name) {
            let _ = writeln!(prototypes, "{}", (function.prototype)());
            count += 1;
        }
    }
    let mut body = String::new();
    let mut same = |what: &str, expression: &str, number: i64| {
        let _ = writeln!(body, "  same(\"{what}\", (long long)({expression}), {number}LL);");
    };
    for one in ENUMERATIONS.iter().filter(|one| has(one.name)) {
        same(&format!("sizeof {}", one.name), &format!("sizeof({})", one.name), one.size as i64);
        for (name, number) in one.values.iter().filter(|(name, _)| has(name)) {
            same(name, name, *number);
        }
    }
    for (name, number) in DEFINES.iter().filter(|(name, _)| has(name)) {
        same(name, name, *number);
    }
    for layout in LAYOUTS.iter().filter(|layout| has(layout.name)) {
        let of = layout.name;
        same(&format!("sizeof {of}"), &format!("sizeof({of})"), layout.size as i64);
        for field in layout.fields {
            let name = format!("{of}.{}", field.name);
            same(&name, &format!("offsetof({of}, {})", field.name), field.offset as i64);
            let size = format!("sizeof((({of} *)0)->{})", field.name);
            same(&format!("sizeof {name}"), &size, field.size as i64);
        }
    }
    for code in CODES.iter().filter(|code| has(code.name)) {
        same(code.name, code.name, i64::from(code.code));
    }
    for (name, text) in TEXTS.iter().filter(|(name, _)| has(name)) {
        let _ = writeln!(body, "  same(\"{name}\", strcmp({name}, \"{text}\"), 0);");
    }
    let program = format!(
        "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n#include <string.h>\n#include <acl/acl.h>\n\n\
         {prototypes}\n\
         static int compared = {count}, different;\n\
         static void same(const char *what, long long theirs, long long ours) {{\n\
         \x20 ++compared;\n\
         \x20 if (theirs != ours) {{ ++different; printf(\"%s: %lld in the header, %lld here\\n\", what, theirs, ours); }}\n\
         }}\n\
         int main(void) {{\n{body}  \
         printf(\"%d prototypes, sizes, offsets and values compared, %d differ\\n\", compared, different);\n  return different != 0;\n}}\n"
    );
    Check { program, absent: absent.into_inner() }
}

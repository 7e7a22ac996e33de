//! The Python that ATC compiles kernels with.

use super::versions::numbers;
use super::{Cx, Purpose, Status};

/// Packages that it needs, by the names of their modules and of what to install. Releases differ; this is the union of what
/// the installation guides of 5.1 to 8.x name (not confirmed for each).
const MODULES: [(&str, &str); 8] = [
    ("attr", "attrs"),
    ("cffi", "cffi"),
    ("decorator", "decorator"),
    ("google.protobuf", "protobuf"),
    ("numpy", "numpy"),
    ("psutil", "psutil"),
    ("scipy", "scipy"),
    ("sympy", "sympy"),
];

pub(super) fn check(cx: &mut Cx<'_>) {
    if cx.toolkit.is_none() {
        return;
    }
    let Some(python) = cx.machine.program("python3") else {
        cx.find(
            "python",
            Status::Problem,
            "there is no python3 on PATH, and ATC compiles kernels with it",
        )
        .only_for(Purpose::Compile)
        .cured_by("install Python 3.7.5 to 3.11, and put it on PATH");
        return;
    };
    let modules: Vec<String> = MODULES.iter().map(|(module, _)| format!("'{module}'")).collect();
    let script = format!(
        "import sys,importlib
print(sys.version.split()[0])
for m in [{}]:
    try: importlib.import_module(m)
    except Exception: print(m)",
        modules.join(",")
    );
    let Some(said) = cx.machine.ask(&python, &["-c", &script]) else {
        cx.find("python", Status::Problem, format!("{} does not work", python.display()))
            .only_for(Purpose::Compile)
            .cured_by("put a Python that works first on PATH");
        return;
    };
    let mut lines = said.lines();
    let version = lines.next().unwrap_or_default().to_owned();
    let missing: Vec<&str> = MODULES
        .iter()
        .filter(|(module, _)| said.lines().skip(1).any(|line| line == *module))
        .map(|(_, package)| *package)
        .collect();
    let number = numbers(&version);
    if number.as_slice() < [3, 7, 5].as_slice() || number.as_slice() >= [3, 13].as_slice() {
        cx.find(
            "python",
            Status::Warning,
            format!("{version} ({}): ATC is for 3.7.5 to 3.11", python.display()),
        )
        .only_for(Purpose::Compile)
        .cured_by("put a Python of that kind first on PATH")
        .inferred();
    } else {
        cx.find("python", Status::Ok, format!("{version} ({})", python.display()))
            .only_for(Purpose::Compile);
    }
    if !missing.is_empty() {
        cx.find("python", Status::Problem, format!("it lacks {}", missing.join(", ")))
            .only_for(Purpose::Compile)
            .cured_by(format!("{} -m pip install {}", python.display(), missing.join(" ")));
    }
}

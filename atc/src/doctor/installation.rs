//! The toolkit or the runtime, its packages, and the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::device::driver_home;
use super::versions::{is_in, numbers};
use super::{Cx, Purpose, Status};
use crate::toolkit::{self, Toolkit, usual_homes, value};
use crate::{AtcError, Machine};

/// An installation that runs models and has no compiler.
pub(super) fn runtime_home(machine: &Machine) -> Option<PathBuf> {
    let named =
        ["ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME"].into_iter().filter_map(|v| machine.variable(v));
    let user = machine.variable("HOME").map(|home| Path::new(home).join("Ascend"));
    let ascend = [Some(PathBuf::from("/usr/local/Ascend")), user].into_iter().flatten();
    let usual = ascend.flat_map(|ascend| [ascend.join("nnrt/latest"), ascend.join("nnae/latest")]);
    let all = named.map(PathBuf::from).chain(usual).chain(usual_homes(machine));
    all.into_iter().find(|home| machine.exists(home.join("lib64/libascendcl.so")))
}

pub(super) fn check(cx: &mut Cx<'_>, found: Result<Toolkit, AtcError>) {
    match found {
        Ok(toolkit) => {
            let version = toolkit.version.clone().unwrap_or_else(|| "of unknown release".into());
            let home = toolkit.home.as_deref().unwrap_or(&toolkit.atc).display().to_string();
            cx.find("toolkit", Status::Ok, format!("{version} ({home}, {})", toolkit.found_by));
            cx.toolkit = Some(toolkit);
        }
        Err(error) => {
            if let Some(home) = cx.home.clone() {
                let version = toolkit::version(cx.machine, &home).unwrap_or_default();
                let what =
                    format!("no compiler, only what runs models: {} {version}", home.display());
                cx.find("toolkit", Status::Problem, what.trim_end())
                    .only_for(Purpose::Compile)
                    .cured_by("install the CANN toolkit of the same release, or compile on another machine");
            } else {
                let what = match error {
                    AtcError::NotFound { looked_at } => format!("no ATC; looked at {looked_at}"),
                    error => error.to_string(),
                };
                cx.find("toolkit", Status::Problem, what)
                    .cured_by("install the CANN toolkit, and the operator package of the chip; for running models alone nnrt is enough");
            }
        }
    }
    let Some(home) = cx.home.clone() else { return };
    packages(cx, &home);
    operators(cx, &home);
    variables(cx, &home);
    libraries(cx, &home);
    memory(cx);
}

/// Packages that say their version below the toolkit's folder, and what others call them in their requirements.
const PACKAGES: [(&str, &str); 5] = [
    ("compiler", "compiler"),
    ("runtime", "runtime"),
    ("opp", "opp"),
    ("opp_kernel", "opp_kernel"),
    ("toolkit", "toolkit"),
];

fn packages(cx: &mut Cx<'_>, home: &Path) {
    let mut found: BTreeMap<&str, String> = BTreeMap::new();
    for (folder, name) in PACKAGES {
        if let Some(text) = cx.machine.read(home.join(folder).join("version.info")) {
            found.insert(name, text);
        }
    }
    if found.is_empty() {
        return;
    }
    let version = |text: &str| value(text, "Version").unwrap_or_default().to_owned();
    let mut against = Vec::new();
    for (name, text) in &found {
        for (other, said) in &found {
            let key = format!("required_package_{other}_version");
            if let Some(range) = value(text, &key)
                && is_in(&version(said), range) == Some(false)
            {
                against.push(format!("{name} wants {other} {range}, which is {}", version(said)));
            }
        }
    }
    if against.is_empty() {
        let all: Vec<String> =
            found.iter().map(|(name, text)| format!("{name} {}", version(text))).collect();
        cx.find("packages", Status::Ok, all.join(", "));
    } else {
        cx.find(
            "packages",
            Status::Problem,
            format!("of different releases: {}", against.join("; ")),
        )
        .cured_by("install all packages of one release of CANN");
    }
    let Some(runtime) = found.get("runtime") else { return };
    let driver = cx.machine.read(driver_home(cx).join("driver/version.info"));
    // Both name the interface between them; that the driver's number must not be lower is inferred.
    if let (Some(wanted), Some(have)) = (
        value(runtime, "required_driver_ascendhal_version"),
        driver.as_deref().and_then(|text| value(text, "ascendhal_version")),
    ) && numbers(have) < numbers(wanted)
    {
        cx.find(
            "driver",
            Status::Problem,
            format!("its interface (ascendhal) is {have}, and the runtime wants {wanted}"),
        )
        .only_for(Purpose::Run)
        .cured_by("install the driver that the release notes of this CANN name")
        .inferred();
    }
}

/// Families of chips that have one folder of kernels: `Ascend310P3` is of `ascend310p`.
fn family(soc: &str) -> String {
    let lower = soc.to_lowercase();
    for family in ["ascend310p", "ascend310b", "ascend910b", "ascend910_93"] {
        if lower.starts_with(family) {
            return family.to_owned();
        }
    }
    lower.trim_end_matches(char::is_alphabetic).to_owned()
}

fn operators(cx: &mut Cx<'_>, home: &Path) {
    if cx.toolkit.is_none() {
        return;
    }
    let set = cx.machine.variable("ASCEND_OPP_PATH").map(PathBuf::from);
    let opp = set.unwrap_or_else(|| home.join("opp"));
    if !cx.machine.exists(&opp) {
        cx.find(
            "operators",
            Status::Problem,
            format!("there is no operator package at {}", opp.display()),
        )
        .only_for(Purpose::Compile)
        .cured_by(
            "correct ASCEND_OPP_PATH, or install the operator package of the toolkit's release",
        );
        return;
    }
    let configs = opp.join("built-in/op_impl/ai_core/tbe/config");
    let known = cx.machine.list(&configs);
    let families: Vec<String> = cx.smi.chips.iter().map(|chip| family(&chip.soc())).collect();
    let missing: Vec<&String> = families.iter().filter(|f| !known.contains(f)).collect();
    let cure =
        "install the operator package (ops) of the chip: from CANN 8.5 on each chip has its own";
    let (status, what) = match missing.first() {
        _ if known.is_empty() => {
            (Status::Problem, format!("no chip has operators in {}", configs.display()))
        }
        Some(family) => (
            Status::Problem,
            format!("none for {family}; there are those for {}", known.join(", ")),
        ),
        None => (Status::Ok, format!("for {}", known.join(", "))),
    };
    let finding = cx.find("operators", status, what).only_for(Purpose::Compile);
    if status == Status::Problem {
        finding.cured_by(cure);
    }
}

fn variables(cx: &mut Cx<'_>, home: &Path) {
    let machine = cx.machine;
    let set = machine.variable("ASCEND_OPP_PATH").is_some();
    for variable in ["ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH", "ASCEND_OPP_PATH"] {
        if let Some(folder) = machine.variable(variable)
            && !machine.exists(folder)
        {
            let what = format!("{variable} is {folder}, which is not there");
            cx.find("environment", Status::Problem, what)
                .cured_by("`source set_env.sh` of the toolkit that is installed, in a fresh shell");
            return;
        }
    }
    if set {
        cx.find("environment", Status::Ok, "that of set_env.sh is set");
    } else {
        let script = [home.join("set_env.sh"), home.join("../set_env.sh")];
        let script = script.iter().find(|script| machine.exists(script));
        let source =
            script.map(|script| format!("; `source {}` for other programs", script.display()));
        let what = format!(
            "set_env.sh was not sourced; onnxfix gives it to ATC itself{}",
            source.unwrap_or_default()
        );
        cx.find("environment", Status::Note, what);
    }
    if machine.variable("ASCEND_GLOBAL_LOG_LEVEL").is_some_and(|level| ["0", "1"].contains(&level))
    {
        cx.find(
            "logging",
            Status::Warning,
            "ASCEND_GLOBAL_LOG_LEVEL logs every step, which takes time",
        )
        .cured_by("unset ASCEND_GLOBAL_LOG_LEVEL");
    }
}

/// Libraries of the driver, the library that programs load, and the releases that are on the way to it.
fn libraries(cx: &mut Cx<'_>, home: &Path) {
    let machine = cx.machine;
    let on_path: Vec<PathBuf> = machine.folders("LD_LIBRARY_PATH").collect();
    let mut releases: BTreeMap<String, PathBuf> = BTreeMap::new();
    for folder in &on_path {
        let real = machine.real(folder);
        if let Some(release) = release_of(machine, &real) {
            releases.entry(release).or_insert_with(|| folder.clone());
        }
    }
    if releases.len() > 1 {
        let all: Vec<String> = releases
            .iter()
            .map(|(release, folder)| format!("{release} ({})", folder.display()))
            .collect();
        cx.find("libraries", Status::Problem, format!("LD_LIBRARY_PATH mixes releases: {}", all.join(", ")))
            .cured_by(
                "source one set_env.sh in a fresh shell, and look through ~/.bashrc for others; mixed releases end in \
                 undefined symbols",
            );
    }
    let places = on_path.iter().cloned().chain([home.join("lib64")]);
    let found =
        places.map(|folder| folder.join("libascendcl.so")).find(|file| machine.exists(file));
    match found {
        None => {
            cx.find(
                "AscendCL",
                Status::Problem,
                format!("no libascendcl.so in {}", home.join("lib64").display()),
            )
            .only_for(Purpose::Run)
            .cured_by("install the toolkit or nnrt completely");
        }
        Some(file) if is_stub(&machine.real(&file)) || is_stub(&file) => {
            cx.find(
                "AscendCL",
                Status::Problem,
                format!(
                    "{} is a stand-in for compiling programs; running with it gives error 100039",
                    file.display()
                ),
            )
            .only_for(Purpose::Run)
            .cured_by(format!(
                "take {} out of LD_LIBRARY_PATH",
                file.parent().unwrap_or(Path::new("")).display()
            ));
        }
        Some(file) => {
            cx.find("AscendCL", Status::Ok, file.display().to_string()).only_for(Purpose::Run);
        }
    }
    let driver = driver_home(cx).join("driver/lib64");
    if !machine.exists(&driver) {
        return;
    }
    let folders = [driver.clone(), driver.join("driver"), driver.join("common")];
    let hal = folders.iter().find(|folder| machine.exists(folder.join("libascend_hal.so")));
    match hal {
        None => {
            cx.find(
                "driver",
                Status::Problem,
                format!("no libascend_hal.so in {}", driver.display()),
            )
            .only_for(Purpose::Run)
            .cured_by("install the driver again, or mount its whole lib64 into the container");
        }
        Some(folder) if !on_path.contains(folder) => {
            let what = format!(
                "{} is not on LD_LIBRARY_PATH; onnxfix adds it for itself",
                folder.display()
            );
            cx.find("libraries", Status::Note, what).only_for(Purpose::Run);
        }
        Some(_) => {}
    }
}

fn is_stub(path: &Path) -> bool {
    path.components().any(|part| ["devlib", "stub"].iter().any(|stub| part.as_os_str() == *stub))
}

/// The release that a folder of libraries belongs to.
fn release_of(machine: &Machine, folder: &Path) -> Option<String> {
    folder.ancestors().take(8).find_map(|above| toolkit::version(machine, above))
}

/// Memory that compiling a base-size model should find, in MiB (inferred from users' reports).
const MEMORY: u64 = 8 * 1024;

fn memory(cx: &mut Cx<'_>) {
    let text = cx.machine.read("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    if let (Some(kib), Some(_)) = (kib, &cx.toolkit)
        && kib / 1024 < MEMORY
    {
        cx.find(
            "memory",
            Status::Warning,
            format!("{} MiB are available for compiling", kib / 1024),
        )
        .only_for(Purpose::Compile)
        .cured_by(
            "compile one model at a time: onnxfix atc --jobs 1; or give the machine swap space",
        )
        .inferred();
    }
}

//! Driver, device files and chips.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Cx, Purpose, Status};
use crate::npu_smi;
use crate::toolkit::value;

const ASCEND: &str = "/usr/local/Ascend";
/// Device files that every process with an NPU opens, beside that of its chip.
const SHARED: [&str; 3] = ["/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc"];

pub(super) fn check(cx: &mut Cx<'_>) {
    driver(cx);
    device_files(cx);
    chips(cx);
}

/// The folder that the driver is below.
pub(super) fn driver_home(cx: &Cx<'_>) -> PathBuf {
    let said = cx.machine.read("/etc/ascend_install.info").and_then(|text| {
        value(&text, "Driver_Install_Path_Param").filter(|path| !path.is_empty()).map(PathBuf::from)
    });
    said.unwrap_or_else(|| PathBuf::from(ASCEND))
}

fn driver(cx: &mut Cx<'_>) {
    let home = driver_home(cx);
    let version = |part: &str| {
        let text = cx.machine.read(home.join(part).join("version.info"))?;
        value(&text, "Version").or_else(|| value(&text, "version")).map(str::to_owned)
    };
    let (driver, firmware) = (version("driver"), version("firmware"));
    let place = home.join("driver");
    if let Some(version) = driver {
        cx.find("driver", Status::Ok, format!("{version} ({})", place.display()))
            .only_for(Purpose::Run);
    } else {
        let cure = if cx.in_container {
            format!(
                "start the container with -v {0}/lib64:{0}/lib64 -v {0}/version.info:{0}/version.info and the device files",
                place.display()
            )
        } else {
            "install driver and firmware of the NPU (not needed for compiling)".to_owned()
        };
        cx.find("driver", Status::Problem, format!("there is none in {}", place.display()))
            .only_for(Purpose::Run)
            .cured_by(cure);
    }
    // In a container the host has it.
    match firmware {
        Some(version) => {
            cx.find("firmware", Status::Ok, version).only_for(Purpose::Run);
        }
        None if !cx.in_container && cx.machine.exists(&place) => {
            cx.find("firmware", Status::Warning, "none recorded beside the driver")
                .only_for(Purpose::Run)
                .cured_by("install the firmware of the driver's release, then restart the machine");
        }
        None => {}
    }
}

/// Who runs this: numbers of the user and of the groups.
fn user(cx: &Cx<'_>) -> (u32, Vec<u32>) {
    let status = cx.machine.read("/proc/self/status").unwrap_or_default();
    let ids = |key: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().filter_map(|id| id.parse().ok()).collect()
    };
    // The second number is the effective one.
    let user = ids("Uid:").get(1).copied().unwrap_or(0);
    let mut groups = ids("Groups:");
    groups.extend(ids("Gid:").get(1));
    (user, groups)
}

fn device_files(cx: &mut Cx<'_>) {
    let chip = |name: &String| {
        name.strip_prefix("davinci")
            .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let chips: Vec<PathBuf> = cx
        .machine
        .list("/dev")
        .iter()
        .filter(|n| chip(n))
        .map(|n| Path::new("/dev").join(n))
        .collect();
    let missing: Vec<&str> = SHARED.into_iter().filter(|file| !cx.machine.exists(file)).collect();
    if chips.is_empty() || !missing.is_empty() {
        let mut what = Vec::new();
        if chips.is_empty() {
            what.push("/dev/davinci0 and up");
        }
        what.extend(&missing);
        let cure = if cx.in_container {
            "start the container with --device /dev/davinci0 --device /dev/davinci_manager --device /dev/devmm_svm \
             --device /dev/hisi_hdc"
        } else {
            "the driver makes them when it finds an NPU: see `lspci | grep -i d500` for a 310P, and `dmesg` for its errors"
        };
        cx.find("device files", Status::Problem, format!("not there: {}", what.join(", ")))
            .only_for(Purpose::Run)
            .cured_by(cure);
        if chips.is_empty() {
            return;
        }
    }
    let (user, groups) = user(cx);
    let all = chips.iter().cloned().chain(SHARED.iter().map(PathBuf::from));
    let mut closed: Vec<(PathBuf, u32)> = Vec::new();
    for file in all {
        let Ok(data) = std::fs::metadata(cx.machine.path(&file)) else { continue };
        let bits = if data.uid() == user {
            data.mode() >> 6
        } else if groups.contains(&data.gid()) {
            data.mode() >> 3
        } else {
            data.mode()
        };
        if user != 0 && bits & 0o6 != 0o6 {
            closed.push((file, data.gid()));
        }
    }
    match closed.first() {
        Some((first, gid)) => {
            let group = group_name(cx, *gid);
            let files: Vec<String> =
                closed.iter().map(|(file, _)| file.display().to_string()).collect();
            cx.find(
                "device files",
                Status::Problem,
                format!("this user may not open {} (group {group})", files.join(", ")),
            )
            .only_for(Purpose::Run)
            .cured_by(format!(
                "sudo usermod -aG {group} $USER, then log in again; `ls -l {}` shows the group",
                first.display()
            ));
        }
        None if missing.is_empty() => {
            let what = format!("{} and what they share, open for this user", listed(&chips));
            cx.find("device files", Status::Ok, what).only_for(Purpose::Run);
        }
        None => {}
    }
}

fn listed(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn group_name(cx: &Cx<'_>, gid: u32) -> String {
    let groups = cx.machine.read("/etc/group").unwrap_or_default();
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| gid.to_string())
}

/// Least memory of a chip that should be free, in MB: weights, work space and gears of a base-size model.
const FREE_MEMORY: u64 = 2048;

fn chips(cx: &mut Cx<'_>) {
    let usual = ["/usr/local/bin/npu-smi", "/usr/local/sbin/npu-smi"].map(PathBuf::from);
    let program = cx
        .machine
        .program("npu-smi")
        .or_else(|| usual.into_iter().find(|path| cx.machine.is_program(path)));
    let Some(program) = program else {
        let cure = if cx.in_container {
            "start the container with -v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi"
        } else {
            "it comes with the driver"
        };
        cx.find("npu-smi", Status::Problem, "there is no npu-smi")
            .only_for(Purpose::Run)
            .cured_by(cure);
        return;
    };
    let said = cx.machine.ask(&program, &["info"]);
    cx.smi = npu_smi::parse(said.as_deref().unwrap_or_default());
    if cx.smi.chips.is_empty() {
        let what = match &said {
            None => "npu-smi info fails or does not answer",
            Some(_) => "npu-smi info shows no chip",
        };
        cx.find("npu-smi", Status::Problem, what).only_for(Purpose::Run).cured_by(
            "run `npu-smi info`: -8005 and the like mean that the driver is not loaded, that the container lacks the \
             device files, or that all chips are given to other containers",
        );
        return;
    }
    let chips = cx.smi.chips.clone();
    for chip in &chips {
        let name = format!("NPU {} chip {}: {}", chip.npu, chip.chip, chip.soc());
        let temperature = chip.temperature.map(|t| format!(", {t} °C")).unwrap_or_default();
        let memory = chip
            .memory
            .map(|(used, all)| format!(", {used} of {all} MB in use"))
            .unwrap_or_default();
        let what = format!("{name}, health {}{temperature}{memory}", chip.health);
        match chip.health.as_str() {
            "OK" => cx.find("chip", Status::Ok, what).only_for(Purpose::Run),
            "Warning" => cx
                .find("chip", Status::Warning, what)
                .only_for(Purpose::Run)
                .cured_by(format!("`npu-smi info -t health -i {}` says why", chip.npu)),
            _ => cx.find("chip", Status::Problem, what).only_for(Purpose::Run).cured_by(format!(
                "`npu-smi info -t health -i {}` says why; choose another one with --device",
                chip.npu
            )),
        };
        if let Some((used, all)) = chip.memory
            && all.saturating_sub(used) < FREE_MEMORY
        {
            let users: Vec<String> = cx
                .smi
                .processes
                .iter()
                .filter(|(npu, number, ..)| (*npu, *number) == (chip.npu, chip.chip))
                .map(|(_, _, process, name, mb)| format!("{name} ({process}, {mb} MB)"))
                .collect();
            let by =
                if users.is_empty() { String::new() } else { format!(": {}", users.join(", ")) };
            cx.find(
                "chip memory",
                Status::Warning,
                format!("{name} has {} MB free{by}", all - used),
            )
            .only_for(Purpose::Run)
            .cured_by("end the processes that use it, or choose another chip with --device");
        }
    }
    let mut socs: Vec<String> = chips.iter().map(npu_smi::Chip::soc).collect();
    socs.sort();
    socs.dedup();
    if socs.len() > 1 {
        cx.find("chip", Status::Note, format!("several kinds: {}", socs.join(", ")))
            .cured_by("say which one is meant: onnxfix atc --soc NAME");
    }
}

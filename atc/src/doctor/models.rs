//! Compiled models against what is installed.

use std::path::{Path, PathBuf};

use super::versions::is_in;
use super::{Cx, Purpose, Status};
use crate::npu_smi::Chip;
use crate::om::OmHeader;
use crate::toolkit::value;

pub(super) fn check(cx: &mut Cx<'_>, models: &[PathBuf]) {
    for path in models {
        model(cx, path);
    }
}

fn model(cx: &mut Cx<'_>, path: &Path) {
    let shown = path.display();
    let header = match OmHeader::read(path) {
        Ok(header) => header,
        Err(error) => {
            cx.find("model", Status::Problem, format!("{shown}: {error}"))
                .only_for(Purpose::Run)
                .cured_by("compile it again: onnxfix atc");
            return;
        }
    };
    let before = cx.findings.len();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some((_, arch)) = name.strip_suffix(".om").and_then(|stem| stem.rsplit_once("_linux_"))
        && arch != std::env::consts::ARCH
    {
        cx.find("model", Status::Problem, format!("{shown} is bound to hosts of {arch}"))
            .only_for(Purpose::Run)
            .cured_by("compile it on this kind of host; a model of fixed shapes is bound to none");
    }
    let mut socs: Vec<String> = cx.smi.chips.iter().map(Chip::soc).collect();
    socs.sort();
    socs.dedup();
    if !header.soc.is_empty() && !socs.is_empty() && !socs.contains(&header.soc) {
        let what =
            format!("{shown} is for {}, and this machine has {}", header.soc, socs.join(", "));
        cx.find("model", Status::Problem, what)
            .only_for(Purpose::Run)
            .cured_by(format!("compile it for this chip: onnxfix atc --soc {}", socs[0]));
    }
    let read = |part: &str| {
        let home = cx.home.as_ref()?;
        cx.machine.read(home.join(part).join("version.info"))
    };
    let runtime = read("runtime");
    let range = runtime.as_deref().and_then(|text| value(text, "required_opp_abi_version"));
    if let Some(range) = range
        && is_in(&header.operators, range) == Some(false)
    {
        let what = format!(
            "{shown} was compiled with operators {}, and this runtime takes {range}",
            header.operators
        );
        cx.find("model", Status::Problem, what)
            .only_for(Purpose::Run)
            .cured_by("compile it with this toolkit, or install the runtime of the release that compiled it or a later one");
    } else if header.dynamic
        && let Some(opp) = read("opp").as_deref().and_then(|text| value(text, "Version"))
        && !header.operators.is_empty()
        && opp != header.operators
    {
        let what = format!(
            "{shown} has shapes that are known late, and was compiled with operators {}; here are {opp}",
            header.operators
        );
        cx.find("model", Status::Problem, what)
            .only_for(Purpose::Run)
            .cured_by("compile it with this toolkit");
    }
    if cx.findings.len() == before {
        let soc = if header.soc.is_empty() { "an unknown chip" } else { &header.soc };
        let by = if header.operators.is_empty() {
            String::new()
        } else {
            format!(", operators {}", header.operators)
        };
        cx.find("model", Status::Ok, format!("{shown}: for {soc}{by}")).only_for(Purpose::Run);
    }
}

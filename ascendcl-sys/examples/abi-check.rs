//! Compares what this crate declares with the headers of a toolkit: `tools/abi-check --include DIR`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--header"] => {
            print!("{}", ascendcl_sys::header());
            return ExitCode::SUCCESS;
        }
        ["--include", folder] => PathBuf::from(folder),
        _ => {
            eprintln!(
                "usage: abi-check --include DIR   DIR has acl/acl.h, as include/ of a toolkit"
            );
            eprintln!("       abi-check --header        prints what is declared, as a header of C");
            return ExitCode::from(2);
        }
    };
    match check(&folder) {
        Ok(same) => ExitCode::from(u8::from(!same)),
        Err(error) => {
            eprintln!("abi-check: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all that both declare is the same.
fn check(folder: &Path) -> Result<bool, String> {
    if !folder.join("acl/acl.h").is_file() {
        return Err(format!("{} has no acl/acl.h", folder.display()));
    }
    let work = std::env::temp_dir().join(format!("abi-check-{}", std::process::id()));
    std::fs::create_dir_all(&work).map_err(|e| format!("{}: {e}", work.display()))?;
    let outcome = compare(folder, &work);
    let _left_behind = std::fs::remove_dir_all(&work);
    outcome
}

fn compare(folder: &Path, work: &Path) -> Result<bool, String> {
    let gcc = || {
        let mut gcc = Command::new("gcc");
        gcc.arg("-w").arg("-I").arg(folder).arg("-I").arg(folder.join("acl"));
        gcc
    };
    let run = |command: &mut Command| command.output().map_err(|e| format!("{command:?}: {e}"));
    let write = |name: &str, text: &str| {
        let path = work.join(name);
        std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display())).map(|()| path)
    };

    // All names that the headers declare or define.
    let probe = write("probe.c", "#include <acl/acl.h>\n")?;
    let read = run(gcc().args(["-E", "-dD"]).arg(&probe))?;
    if !read.status.success() {
        return Err(format!("gcc cannot read them\n{}", String::from_utf8_lossy(&read.stderr)));
    }
    let text = String::from_utf8_lossy(&read.stdout);
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names: std::collections::HashSet<&str> = text
        .lines()
        .filter(|l| !l.starts_with("# "))
        .flat_map(|l| l.split(|c| !is_name(c)))
        .collect();

    let check = ascendcl_sys::check(&|name| names.contains(name));
    let source = write("check.c", &check.program)?;
    let program = work.join("check");
    let built = run(gcc().arg("-o").arg(&program).arg(&source))?;
    if !built.status.success() {
        println!("{}", String::from_utf8_lossy(&built.stderr));
        println!("prototypes differ");
        return Ok(false);
    }
    let ran = run(&mut Command::new(&program))?;
    print!("{}", String::from_utf8_lossy(&ran.stdout));
    if !check.absent.is_empty() {
        println!("not declared there: {}", check.absent.join(", "));
    }
    Ok(ran.status.success())
}

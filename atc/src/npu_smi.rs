//! What `npu-smi info` says.

use serde::Serialize;

/// A chip, as `npu-smi info` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chip {
    /// Number of the card.
    pub npu: u32,
    /// Number of the chip on its card.
    pub chip: u32,
    /// Number that programs use; none where the table has no such column.
    pub device: Option<u32>,
    /// Name: `310P3`.
    pub name: String,
    /// `OK`, `Warning`, `Alarm`, `Critical` or `UNKNOWN`.
    pub health: String,
    /// Place on the bus: `0000:82:00.0`.
    pub bus: String,
    /// Memory in use and in all, in MB.
    pub memory: Option<(u64, u64)>,
    /// Temperature in degrees Celsius.
    pub temperature: Option<u32>,
}

impl Chip {
    /// The chip as `--soc_version` of ATC spells it: `Ascend310P3`.
    #[must_use]
    pub fn soc(&self) -> String {
        format!("Ascend{}", self.name)
    }
}

/// What `npu-smi info` shows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Info {
    /// Version of the driver's tools.
    pub version: Option<String>,
    /// All chips, in the table's order.
    pub chips: Vec<Chip>,
    /// Processes that use a chip: chip's card and number, process, name, memory in MB.
    pub processes: Vec<(u32, u32, u32, String, u64)>,
}

/// Reads the table. Each chip has two rows of three cells: card, name, health and temperature, then chip, device, bus and
/// memory; a card with two chips repeats its first row or leaves it out for the second one. A second table has processes.
#[must_use]
pub fn parse(text: &str) -> Info {
    let mut info = Info::default();
    let mut card: Option<(u32, String, String, Option<u32>)> = None;
    let mut in_processes = false;
    for line in text.lines() {
        let line = line.trim();
        let Some(row) = line.strip_prefix('|').and_then(|row| row.strip_suffix('|')) else {
            continue;
        };
        if let Some(rest) = row.split_once("Version:").map(|(_, rest)| rest) {
            info.version = rest.split_whitespace().next().map(str::to_owned);
            continue;
        }
        let cells: Vec<Vec<&str>> =
            row.split('|').map(|cell| cell.split_whitespace().collect()).collect();
        let number = |word: Option<&&str>| word.and_then(|word| word.parse::<u32>().ok());
        if cells.iter().any(|cell| cell.starts_with(&["Process", "id"])) {
            in_processes = true;
            continue;
        }
        let [first, second, third, ..] = cells.as_slice() else { continue };
        let Some(left) = number(first.first()) else { continue };
        if in_processes {
            let process = number(second.first());
            let name = third.join(" ");
            let memory = cells.get(3).and_then(|cell| cell.first()?.parse().ok());
            if let (Some(chip), Some(process), Some(memory)) =
                (number(first.get(1)), process, memory)
            {
                info.processes.push((left, chip, process, name, memory));
            }
            continue;
        }
        match (first.get(1), second.first()) {
            // The name of a chip begins with a digit too, but is no number.
            (Some(name), Some(health)) if name.parse::<u32>().is_err() => {
                let temperature = number(third.get(1));
                card = Some((left, (*name).to_owned(), (*health).to_owned(), temperature));
            }
            (device, Some(bus)) => {
                let Some((npu, name, health, temperature)) = &card else { continue };
                info.chips.push(Chip {
                    npu: *npu,
                    chip: left,
                    device: number(device),
                    name: name.clone(),
                    health: health.clone(),
                    bus: (*bus).to_owned(),
                    memory: memory(third),
                    temperature: *temperature,
                });
            }
            _ => {}
        }
    }
    info
}

/// The last pair `1074 / 21534` of a cell. Chips with two kinds of memory show the one that models use last.
fn memory(cell: &[&str]) -> Option<(u64, u64)> {
    let text = cell.join(" ");
    let (before, total) = text.rsplit_once('/')?;
    let used = before.split_whitespace().last()?;
    Some((used.parse().ok()?, total.trim().parse().ok()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Cards in the form of the published guides: a 300I Pro and a 300I Duo.
    pub(crate) const TABLE: &str = "\
+--------------------------------------------------------------------------------------------------------+
| npu-smi 23.0.5                                   Version: 23.0.5                                       |
+-------------------------------+-----------------+------------------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===============================+=================+======================================================+
| 0       310P3                 | OK              | 15.8         42                0     / 0             |
| 0       0                     | 0000:82:00.0    | 0            1074 / 21534                            |
+===============================+=================+======================================================+
| 5       310P3                 | Warning         | NA           51                0     / 0             |
| 0       1                     | 0000:83:00.0    | 0            1852 / 44280                            |
+-------------------------------+-----------------+------------------------------------------------------+
| 5       310P3                 | Warning         | NA           50                0     / 0             |
| 1       2                     | 0000:83:00.0    | 0            1852 / 43693                            |
+===============================+=================+======================================================+
+-------------------------------+-----------------+------------------------------------------------------+
| NPU     Chip                  | Process id      | Process name             | Process memory(MB)        |
+===============================+=================+======================================================+
| 0       0                     | 4711            | python3                  | 913                       |
+===============================+=================+======================================================+
| No running processes found in NPU 5                                                                    |
+===============================+=================+======================================================+
";

    #[test]
    fn two_rows_are_a_chip() {
        let info = parse(TABLE);
        assert_eq!(info.version.as_deref(), Some("23.0.5"));
        let seen: Vec<_> = info.chips.iter().map(|c| (c.npu, c.chip, c.device, c.soc())).collect();
        let soc = || "Ascend310P3".to_owned();
        assert_eq!(seen, [(0, 0, Some(0), soc()), (5, 0, Some(1), soc()), (5, 1, Some(2), soc())]);
        assert_eq!(info.chips[0].memory, Some((1074, 21534)));
        assert_eq!(
            (info.chips[2].health.as_str(), info.chips[2].temperature),
            ("Warning", Some(50))
        );
        assert_eq!(info.processes, [(0, 0, 4711, "python3".into(), 913)]);
    }

    #[test]
    fn other_texts_have_no_chips() {
        assert_eq!(parse("dcmi module initialize failed. ret is -8005\n"), Info::default());
    }
}

//! Times, the table they make, and the file it is saved to.

use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};

use crate::caches;

/// Save the table if this variable is set.
pub const VARIABLE: &str = "SPECKV_BENCH_SAVE";

/// What else changes figures; repeated in the command that a saved table shows.
const SETTINGS: [&str; 5] = [
    "RUSTFLAGS",
    speckv_backend_cpu::VARIABLE,
    "RAYON_NUM_THREADS",
    caches::VARIABLE,
    caches::PROFILE_VARIABLE,
];

/// criterion in a hurry: ten samples of `milliseconds` together; its command line can ask for more.
pub fn criterion(milliseconds: u64) -> Criterion {
    let c = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(50)).without_plots();
    c.measurement_time(Duration::from_millis(milliseconds)).configure_from_args()
}

/// Seconds that `f` takes: the fastest of criterion's calls, the one least disturbed by whatever else runs. `None` if the command line left it out.
pub fn time<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut f: impl FnMut() -> T,
) -> Option<f64> {
    let mut fastest = None::<Duration>;
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(name, |b| {
        b.iter_custom(|n| {
            let mut all = Duration::ZERO;
            for _ in 0..n {
                let since = Instant::now();
                black_box(f());
                let took = since.elapsed();
                fastest = Some(fastest.map_or(took, |f| f.min(took)));
                all += took;
            }
            all
        });
    });
    fastest.map(|f| f.as_secs_f64())
}

/// `rate` to three digits, blank if it was not measured.
pub fn digits(rate: Option<f64>) -> String {
    match rate {
        None => String::new(),
        Some(rate) => format!(
            "{rate:.*}",
            if rate >= 100.0 {
                0
            } else if rate >= 10.0 {
                1
            } else {
                2
            }
        ),
    }
}

/// A table in Markdown.
pub struct Table {
    bench: &'static str,
    columns: usize,
    text: String,
}

impl Table {
    /// Of bench `bench`, with these columns; those from the first that starts with a blank are aligned right.
    pub fn new(bench: &'static str, columns: &[&str]) -> Table {
        let right = columns.iter().position(|c| c.starts_with(' ')).unwrap_or(columns.len());
        let mut table = Table { bench, columns: columns.len(), text: String::new() };
        table.row(&columns.iter().map(|c| c.trim().to_owned()).collect::<Vec<_>>());
        table.row(
            &(0..columns.len())
                .map(|i| if i < right { "---" } else { "---:" }.to_owned())
                .collect::<Vec<_>>(),
        );
        table
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[String]) {
        assert_eq!(cells.len(), self.columns);
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }

    /// Another table below.
    pub fn above(mut self, other: Table) -> Table {
        self.text += "\n";
        self.text += &other.text;
        self
    }

    /// Prints the table with what was measured where, and saves it to `results/<cpu>-<bench>.md` if [`VARIABLE`] is set and the whole bench ran.
    pub fn finish(self, about: &str) {
        println!("\n{}\n{about}", self.text);
        if std::env::var_os(VARIABLE).is_none() {
            return;
        }
        // Cargo adds --bench; anything else makes the run another one than the file would say.
        if let Some(other) = std::env::args().skip(1).find(|a| a != "--bench") {
            eprintln!("not saved: expected a whole run without arguments, found `{other}`");
            return;
        }
        let (cpu, bench) = (cpu(), self.bench);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("results/{}-{bench}.md", slug(&cpu)));
        let set = |name: &&str| std::env::var(name).ok().map(|value| format!("{name}=\"{value}\" "));
        let settings: String = SETTINGS.iter().filter_map(set).collect();
        let instructions = if cfg!(target_feature = "avx2") { "AVX2" } else { "the target's least" };
        let text = format!(
            "# {bench} on {cpu}\n\n{}, speckv {}, {}; code without paths of its own (rivals, portable loops) compiled for {instructions}.\n\n\
             ```sh\n{settings}{VARIABLE}=1 cargo bench -p speckv-benches --bench {bench}\n```\n\n{}\n{about}\n",
            output_of("date", &["-u", "+%Y-%m-%d"]),
            env!("CARGO_PKG_VERSION"),
            output_of("rustc", &["--version"]),
            self.text
        );
        std::fs::write(&path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        println!("written to {}", path.display());
    }
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("`{program}` is needed to save a table: {e}"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Model of the CPU; family and model numbers too, as virtual machines shorten the name.
fn cpu() -> String {
    let about = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let mut lines = about.lines().filter_map(|l| l.split_once(':'));
        lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
    };
    let Some(name) = field("model name") else { return format!("{} CPU", std::env::consts::ARCH) };
    let numbers = field("cpu family").zip(field("model"));
    name + &numbers.map(|(f, m)| format!(" (family {f}, model {m})")).unwrap_or_default()
}

/// Letters and digits of a name, in small letters, joined by dashes.
fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_and_digits() {
        assert_eq!(slug("AMD EPYC (family 26, model 2)"), "amd-epyc-family-26-model-2");
        assert_eq!([123.4, 12.34, 1.234].map(|r| digits(Some(r))), ["123", "12.3", "1.23"]);
        assert_eq!(digits(None), "");
    }

    #[test]
    fn a_table_is_markdown() {
        let mut table = Table::new("x", &["name", " size"]);
        table.row(&["a".into(), "1".into()]);
        assert_eq!(table.text, "| name | size |\n| --- | ---: |\n| a | 1 |\n");
    }
}

//! The plan for people, for machines and for spreadsheets.

use std::fmt::Write;

use serde_json::{Value, json};

use super::model::{Pipeline, Way};
use super::rates::Rate;
use super::units::{bytes_text, speed_text, time_text};
use super::{Plan, fastest};
use crate::caches::geometry_text;
use crate::output::grouped;

/// Nine figures: enough to compute with, and no noise.
fn nine(x: f64) -> f64 {
    format!("{x:.8e}").parse().unwrap_or(x)
}

/// Link speeds at which a way stops and starts to pay: against raw, against computing anew.
struct Limits {
    raw_above: Option<f64>,
    prefill_below: Option<f64>,
}

fn limits(way: &Way, ways: &[Way], pipe: &Pipeline) -> Option<Limits> {
    let (raw, prefill) = (ways.first()?, ways.last()?);
    way.sends().then(|| Limits {
        raw_above: pipe.raw_wins_above(way, raw),
        prefill_below: pipe.prefill_wins_below(way, prefill),
    })
}

/// Whether a way is one of the predictors.
fn coded(way: &Way, ways: &[Way]) -> bool {
    way.sends() && way.name != ways[0].name
}

fn above(limit: Option<f64>) -> String {
    match limit {
        None => "never".to_owned(),
        Some(0.0) => "always".to_owned(),
        Some(speed) => speed_text(speed),
    }
}

fn below(limit: Option<f64>) -> String {
    limit.map_or("always".to_owned(), speed_text)
}

/// One block for each context length, in it one for each link.
pub fn text(plan: &Plan, rates: &[&Rate], tokens: &[u64]) -> String {
    let (t, m, s) = (&plan.target, &plan.machine, &plan.speeds);
    let mut out = format!(
        "{}, {} cache: {}, {} a token raw\n\
         machine   {}, {} threads, {}, measured {}{}\n\
         rates     {}\n\
         speeds    products {}, attention {}, prefill {} multiply-adds/s; coder {}\n\
         times     {}; {}{}\n",
        t.name,
        t.format.name(),
        geometry_text(t.geometry),
        bytes_text(t.raw_bytes(1)),
        m.cpu,
        m.threads,
        m.backend,
        m.date,
        if m.quick { " (quick: rough)" } else { "" },
        plan.rates.source,
        count_text(s.gemm),
        count_text(s.attention),
        count_text(s.prefill),
        s.coder.map_or("as measured".to_owned(), |c| format!("{} scalars/s", count_text(c))),
        match plan.overlap {
            true => format!("transfer and decode overlap in chunks of {} tokens", plan.chunk),
            false => "decode begins when all has arrived".to_owned(),
        },
        if plan.encode { "the sender compresses first" } else { "already compressed" },
        if plan.latency > 0.0 { format!("; latency {}", time_text(plan.latency)) } else { String::new() },
    );
    for &n in tokens {
        let (ways, pipe) = plan.at(n, rates);
        let _ = writeln!(
            out,
            "\n{} tokens\n  {:<20} {:>9} {:>6} {:>7} {:>9} {:>9}  {:>16}  {:>23}",
            grouped(n),
            "",
            "bytes",
            "bits",
            "ratio",
            "encode",
            "decode",
            "raw faster above",
            "re-prefill faster below"
        );
        for way in &ways {
            let limits = limits(way, &ways, &pipe);
            let dash = || "-".to_owned();
            let _ = writeln!(
                out,
                "  {:<20} {:>9} {:>6} {:>7} {:>9} {:>9}  {:>16}  {:>23}",
                way.name,
                if way.sends() { bytes_text(way.bytes) } else { dash() },
                way.bits.map_or_else(dash, |b| format!("{b:.2}")),
                if way.sends() { format!("{:.2}x", ways[0].bytes / way.bytes) } else { dash() },
                if coded(way, &ways) { time_text(way.encode) } else { dash() },
                if way.decode > 0.0 { time_text(way.decode) } else { dash() },
                limits.as_ref().filter(|_| coded(way, &ways)).map_or_else(dash, |l| above(l.raw_above)),
                limits.as_ref().map_or_else(dash, |l| below(l.prefill_below)),
            );
        }
        for (name, link) in &plan.links {
            let best = fastest(&ways, &pipe, *link);
            let raw = pipe.ready(&ways[0], *link);
            let speed = speed_text(*link);
            let _ = writeln!(
                out,
                "\n  {:<28} {:>9} {:>9} {:>9}",
                format!(
                    "over {}",
                    if *name == speed.replace(' ', "") { name.clone() } else { format!("{name} = {speed}") }
                ),
                "transfer",
                "decode",
                "ready in"
            );
            for (i, way) in ways.iter().enumerate() {
                let ready = pipe.ready(way, *link);
                let _ = writeln!(
                    out,
                    "{} {:<28} {:>9} {:>9} {:>9}{}",
                    if i == best { ">" } else { " " },
                    way.name,
                    if way.sends() { time_text(way.transfer(*link)) } else { "-".to_owned() },
                    if way.decode > 0.0 { time_text(way.decode) } else { "-".to_owned() },
                    time_text(ready),
                    match (i == best, i) {
                        (true, 0) => "  fastest".to_owned(),
                        (true, _) => format!("  fastest, {:.2}x as fast as raw", raw / ready),
                        _ => String::new(),
                    }
                );
            }
        }
    }
    out.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// A number of operations with a prefix.
fn count_text(x: f64) -> String {
    bytes_text(x).trim_end_matches('B').to_owned()
}

/// All of it.
pub fn json(plan: &Plan, rates: &[&Rate], tokens: &[u64]) -> Value {
    let (t, g, s) = (&plan.target, plan.target.geometry, &plan.speeds);
    let context = |&n: &u64| {
        let (ways, pipe) = plan.at(n, rates);
        let about = |way: &Way| {
            let limits = limits(way, &ways, &pipe);
            json!({
                "way": way.name, "bytes": nine(way.bytes), "bits": way.bits, "encode_seconds": nine(way.encode),
                "decode_seconds": nine(way.decode),
                "raw_faster_above_bytes_per_second":
                    limits.as_ref().filter(|_| coded(way, &ways)).and_then(|l| l.raw_above).map(nine),
                "prefill_faster_below_bytes_per_second": limits.as_ref().and_then(|l| l.prefill_below).map(nine),
            })
        };
        let link = |(name, speed): &(String, f64)| {
            let times = ways.iter().map(|way| {
                json!({
                    "way": way.name, "transfer_seconds": nine(way.transfer(*speed)),
                    "ready_seconds": nine(pipe.ready(way, *speed)),
                })
            });
            json!({
                "link": name, "bytes_per_second": nine(*speed), "times": times.collect::<Vec<_>>(),
                "fastest": ways[fastest(&ways, &pipe, *speed)].name,
            })
        };
        json!({
            "tokens": n, "chunks": pipe.chunks, "ways": ways.iter().map(about).collect::<Vec<_>>(),
            "links": plan.links.iter().map(link).collect::<Vec<_>>(),
        })
    };
    json!({
        "model": t.name, "format": t.format.name(), "layers": g.layers, "kv_heads": g.kv_heads, "head_dim": g.head_dim,
        "machine": plan.machine.cpu, "backend": plan.machine.backend, "rates": plan.rates.source,
        "gemm_per_second": s.gemm, "attention_per_second": s.attention, "row_values_per_second": s.rows, "prefill_per_second": s.prefill,
        "coder_per_second": s.coder, "latency_seconds": plan.latency, "chunk_tokens": plan.chunk,
        "overlap": plan.overlap, "with_encode": plan.encode,
        "contexts": tokens.iter().map(context).collect::<Vec<_>>(),
    })
}

/// One line for each context length, link and way; a limit that does not exist is empty.
pub fn csv(plan: &Plan, rates: &[&Rate], tokens: &[u64]) -> String {
    let mut out = "tokens,link,link_bytes_per_second,way,format,bits,bytes,encode_seconds,transfer_seconds,decode_seconds,\
                   ready_seconds,fastest,raw_faster_above_bytes_per_second,prefill_faster_below_bytes_per_second\n"
        .to_owned();
    let maybe = |x: Option<f64>| x.map_or_else(String::new, |x| nine(x).to_string());
    for &n in tokens {
        let (ways, pipe) = plan.at(n, rates);
        for (name, speed) in &plan.links {
            let best = fastest(&ways, &pipe, *speed);
            for (i, way) in ways.iter().enumerate() {
                let limits = limits(way, &ways, &pipe);
                let raw_above = limits.as_ref().filter(|_| coded(way, &ways)).and_then(|l| l.raw_above);
                let _ = writeln!(
                    out,
                    "{n},{name},{},{},{},{},{},{},{},{},{},{},{},{}",
                    nine(*speed),
                    way.name,
                    plan.target.format.name(),
                    maybe(way.bits),
                    nine(way.bytes),
                    nine(way.encode),
                    nine(way.transfer(*speed)),
                    nine(way.decode),
                    nine(pipe.ready(way, *speed)),
                    i == best,
                    maybe(raw_above),
                    maybe(limits.and_then(|l| l.prefill_below)),
                );
            }
        }
    }
    out
}

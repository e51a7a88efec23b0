//! The fastest way over context length and link speed, as a picture.

use plotters::prelude::*;

use super::rates::Rate;
use super::units::speed_text;
use super::{Plan, fastest};
use crate::error::{Code, Error, Result};
use crate::output::grouped;

const SIZE: (u32, u32) = (960, 560);
const COLUMNS: usize = 96;
const ROWS: usize = 120;
/// Ways in their order: raw grey, re-prefill (always last) orange, predictors between them.
const RAW: RGBColor = RGBColor(150, 150, 150);
const PREFILL: RGBColor = RGBColor(230, 140, 40);
const PREDICTORS: [RGBColor; 7] = [
    RGBColor(120, 180, 230),
    RGBColor(30, 100, 180),
    RGBColor(60, 160, 110),
    RGBColor(130, 90, 170),
    RGBColor(200, 80, 120),
    RGBColor(20, 130, 140),
    RGBColor(90, 90, 40),
];

fn colour(way: usize, ways: usize) -> RGBColor {
    match way {
        0 => RAW,
        _ if way + 1 == ways => PREFILL,
        _ => PREDICTORS[(way - 1) % PREDICTORS.len()],
    }
}

/// Cells of equal ratio from `from` to `to`.
fn steps(from: f64, to: f64, n: usize) -> Vec<f64> {
    (0..=n).map(|i| from * (to / from).powf(i as f64 / n as f64)).collect()
}

/// A run of cells of one context length where the same way is fastest: way, rows.
fn runs(best: impl Fn(usize) -> usize) -> Vec<(usize, std::ops::Range<usize>)> {
    let mut all: Vec<(usize, std::ops::Range<usize>)> = Vec::new();
    for row in 0..ROWS {
        let way = best(row);
        match all.last_mut() {
            Some((last, rows)) if *last == way => rows.end = row + 1,
            _ => all.push((way, row..row + 1)),
        }
    }
    all
}

/// 256 to 128k tokens and 1 MB/s to 100 GB/s, more if more is asked for.
pub fn svg(plan: &Plan, rates: &[&Rate], tokens: &[u64]) -> Result<String> {
    let least = tokens.iter().copied().min().unwrap_or(256).clamp(1, 256);
    let most = tokens.iter().copied().max().unwrap_or_default().max(131_072);
    let range = |values: &mut dyn Iterator<Item = f64>, low: f64, high: f64| {
        values.fold((low, high), |(a, b), x| (a.min(x), b.max(x)))
    };
    let (slow, quick) = range(&mut plan.links.iter().map(|l| l.1), 1e6, 1e11);
    let (xs, ys) = (steps(least as f64, most as f64, COLUMNS), steps(slow, quick, ROWS));
    let names: Vec<String> = plan.at(least, rates).0.into_iter().map(|w| w.name).collect();

    let mut out = String::new();
    let failed = |e: &dyn std::fmt::Display| Error::new(Code::Internal, format!("drawing the picture: {e}"));
    {
        let root = SVGBackend::with_string(&mut out, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        let (left, right) = root.split_horizontally(SIZE.0 - 190);
        let title = format!(
            "{}, {} cache: fastest way to a ready cache",
            plan.target.name,
            plan.target.format.name()
        );
        let mut chart = ChartBuilder::on(&left)
            .margin(12)
            .caption(title, ("sans-serif", 18))
            .x_label_area_size(44)
            .y_label_area_size(84)
            .build_cartesian_2d((xs[0]..xs[COLUMNS]).log_scale().base(2.0), (ys[0]..ys[ROWS]).log_scale())
            .map_err(|e| failed(&e))?;
        for column in 0..COLUMNS {
            let n = (xs[column] * xs[column + 1]).sqrt().round().max(1.0) as u64;
            let (ways, pipe) = plan.at(n, rates);
            let best = |row: usize| fastest(&ways, &pipe, (ys[row] * ys[row + 1]).sqrt());
            let cells = runs(best).into_iter().map(|(way, rows)| {
                let corners = [(xs[column], ys[rows.start]), (xs[column + 1], ys[rows.end])];
                Rectangle::new(corners, colour(way, names.len()).filled())
            });
            chart.draw_series(cells).map_err(|e| failed(&e))?;
        }
        chart
            .configure_mesh()
            .disable_mesh()
            .x_desc("tokens of context")
            .y_desc("link")
            .x_label_formatter(&|x| grouped(x.round() as u64))
            .y_label_formatter(&|y| speed_text(*y))
            .label_style(("sans-serif", 12))
            .draw()
            .map_err(|e| failed(&e))?;
        let asked = tokens.iter().flat_map(|&n| plan.links.iter().map(move |l| (n as f64, l.1)));
        let dots = asked
            .flat_map(|at| [Circle::new(at, 4, WHITE.filled()), Circle::new(at, 4, BLACK.stroke_width(1))]);
        chart.draw_series(dots).map_err(|e| failed(&e))?;

        let line = |y: i32, text: &str, size: i32| {
            right.draw(&Text::new(text.to_owned(), (24, y - size / 2), ("sans-serif", size)))
        };
        line(52, "fastest", 14).map_err(|e| failed(&e))?;
        for (i, name) in names.iter().enumerate() {
            let y = 78 + 24 * i as i32;
            let square = Rectangle::new([(4, y - 8), (18, y + 6)], colour(i, names.len()).filled());
            right.draw(&square).map_err(|e| failed(&e))?;
            line(y, name, 13).map_err(|e| failed(&e))?;
        }
        let below = 78 + 24 * names.len() as i32;
        right.draw(&Circle::new((11, below - 1), 4, BLACK.stroke_width(1))).map_err(|e| failed(&e))?;
        line(below, "asked for", 13).map_err(|e| failed(&e))?;
        let how =
            if plan.overlap { format!("overlap, chunks of {}", plan.chunk) } else { "no overlap".to_owned() };
        line(below + 36, &how, 11).map_err(|e| failed(&e))?;
        line(below + 52, &format!("{}, {} threads", plan.machine.backend, plan.machine.threads), 11)
            .map_err(|e| failed(&e))?;
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_join() {
        let all = runs(|row| usize::from(row >= 7) + usize::from(row >= ROWS - 1));
        assert_eq!(all, [(0, 0..7), (1, 7..ROWS - 1), (2, ROWS - 1..ROWS)]);
    }

    #[test]
    fn steps_have_equal_ratios() {
        let all = steps(256.0, 4096.0, 4);
        assert!(all.iter().zip([256.0, 512.0, 1024.0, 2048.0, 4096.0]).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}

//! Scatter plots on logarithmic axes, as SVG.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Code, Error, Result};

/// Size of a plot in pixels.
const SIZE: (u32, u32) = (900, 560);
/// The drawing area: left, top, right, bottom.
const AREA: [i32; 4] = [76, 66, 876, 468];
/// Columns at the left of the drawing area for points whose x is 0, which a logarithmic axis has no place for.
const ZERO: i32 = 90;
const GREY: RGBColor = RGBColor(110, 110, 110);
const LIGHT: RGBColor = RGBColor(228, 228, 228);
const COLOURS: [RGBColor; 4] =
    [RGBColor(31, 102, 178), RGBColor(208, 88, 16), RGBColor(34, 139, 84), RGBColor(128, 70, 160)];

/// A point with its label.
pub struct Point {
    /// Not negative; 0 has a place of its own.
    pub x: f64,
    /// Positive.
    pub y: f64,
    /// Drawn beside it.
    pub label: String,
    /// Drawn as a hollow diamond and named apart in the legend: not measured as the others were.
    pub apart: bool,
}

/// Points of one colour.
pub struct Series {
    /// In the legend.
    pub name: String,
    /// All of them.
    pub points: Vec<Point>,
    /// A horizontal line with its label.
    pub line: (f64, String),
}

/// A plot. Every word of it is drawn as it is.
pub struct Plot<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below the title, smaller.
    pub subtitle: &'a str,
    /// Below the x axis.
    pub x: &'a str,
    /// Beside the y axis.
    pub y: &'a str,
    /// What x = 0 is called.
    pub zero: &'a str,
    /// What hollow diamonds are called.
    pub apart: &'a str,
    /// One colour each.
    pub series: &'a [Series],
}

type Canvas<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

impl Plot<'_> {
    /// The SVG.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        let failed = |e: DrawingAreaErrorKind<std::io::Error>| {
            Error::new(Code::Internal, format!("the plot cannot be drawn: {e}"))
        };
        {
            let canvas = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            self.draw(&canvas).and_then(|()| canvas.present()).map_err(failed)?;
        }
        Ok(svg)
    }

    fn draw(&self, canvas: &Canvas<'_>) -> std::result::Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let [left, top, right, bottom] = AREA;
        let points = || self.series.iter().flat_map(|s| &s.points);
        let lines = self.series.iter().map(|s| s.line.0);
        let x = Log::over(points().map(|p| p.x).filter(|&x| x > 0.0), [1.6, 2.6], [left + ZERO, right]);
        let y = Log::over(points().map(|p| p.y).chain(lines), [1.25, 1.25], [bottom, top]);
        let place = |p: &Point| (if p.x > 0.0 { x.at(p.x) } else { left + ZERO / 2 }, y.at(p.y));

        canvas.fill(&WHITE)?;
        text(canvas, self.title, (left, 14), 20.0, BLACK, HPos::Left)?;
        text(canvas, self.subtitle, (left, 40), 15.0, GREY, HPos::Left)?;
        for tick in x.ticks() {
            path(canvas, &[(x.at(tick), top), (x.at(tick), bottom)], LIGHT, 1)?;
            text(canvas, &tick.to_string(), (x.at(tick), bottom + 8), 15.0, GREY, HPos::Center)?;
        }
        for tick in y.ticks() {
            path(canvas, &[(left, y.at(tick)), (right, y.at(tick))], LIGHT, 1)?;
            text(canvas, &tick.to_string(), (left - 8, y.at(tick) - 7), 15.0, GREY, HPos::Right)?;
        }
        path(canvas, &[(left, top), (left, bottom), (right, bottom)], GREY, 1)?;
        if points().any(|p| p.x <= 0.0) {
            text(canvas, self.zero, (left + ZERO / 2, bottom + 8), 15.0, GREY, HPos::Center)?;
            // Where the axis is cut.
            for at in [left + ZERO - 3, left + ZERO + 3] {
                path(canvas, &[(at - 3, bottom + 5), (at + 3, bottom - 5)], GREY, 1)?;
            }
        }
        text(canvas, self.x, ((left + right) / 2, bottom + 32), 16.0, BLACK, HPos::Center)?;
        let font = ("sans-serif", 16.0).into_font().transform(FontTransform::Rotate270);
        let style = TextStyle::from(font).color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
        canvas.draw(&Text::new(self.y.to_owned(), (16, (top + bottom) / 2), style))?;

        // Lines and marks first, since labels avoid them.
        let mut taken = Vec::new();
        for (series, colour) in self.series.iter().zip(COLOURS.into_iter().cycle()) {
            let at = y.at(series.line.0);
            for dash in (left..right).step_by(12) {
                path(canvas, &[(dash, at), ((dash + 7).min(right), at)], colour, 1)?;
            }
            let spot = (right - 6, at - 17);
            text(canvas, &series.line.1, spot, 15.0, colour, HPos::Right)?;
            taken.push(Box::around(&series.line.1, spot, HPos::Right));
            taken.push(Box([left, at - 1, right, at + 1]));
            let front: Vec<_> = series.front().into_iter().map(place).collect();
            path(canvas, &front, colour.mix(0.35), 2)?;
            taken.extend(front.windows(2).flat_map(|ends| Box::along(ends[0], ends[1])));
            for point in &series.points {
                let (px, py) = place(point);
                taken.push(Box([px - 6, py - 6, px + 6, py + 6]));
                mark(canvas, (px, py), point.apart, colour)?;
            }
        }
        for (series, colour) in self.series.iter().zip(COLOURS.into_iter().cycle()) {
            for point in &series.points {
                let (spot, anchor) = free_spot(&point.label, place(point), &taken);
                taken.push(Box::around(&point.label, spot, anchor));
                text(canvas, &point.label, spot, 15.0, colour, anchor)?;
            }
        }
        self.legend(canvas)
    }

    fn legend(&self, canvas: &Canvas<'_>) -> std::result::Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let mut at = (AREA[0] + 8, SIZE.1 as i32 - 14);
        let mut entry = |name: &str, apart: bool, colour: RGBColor| {
            mark(canvas, at, apart, colour)?;
            text(canvas, name, (at.0 + 12, at.1 - 7), 15.0, BLACK, HPos::Left)?;
            at.0 += 12 + width(name) + 26;
            Ok(())
        };
        for (series, colour) in self.series.iter().zip(COLOURS.into_iter().cycle()) {
            entry(&series.name, false, colour)?;
        }
        if self.series.iter().flat_map(|s| &s.points).any(|p| p.apart) {
            entry(self.apart, true, GREY)?;
        }
        Ok(())
    }
}

impl Series {
    /// The points with some work that no other one of the series beats in both x and y, from the left.
    fn front(&self) -> Vec<&Point> {
        let mut all: Vec<&Point> = self.points.iter().filter(|p| !p.apart).collect();
        // The axis is cut between 0 and the others.
        all.retain(|p| p.x > 0.0);
        all.sort_by(|a, b| a.x.total_cmp(&b.x).then(a.y.total_cmp(&b.y)));
        let mut best = f64::INFINITY;
        all.retain(|p| {
            p.y < best && {
                best = p.y;
                true
            }
        });
        all
    }
}

/// From numbers to pixels.
struct Log {
    /// Of the two ends.
    ends: [f64; 2],
    pixels: [i32; 2],
}

impl Log {
    /// An axis over all of `numbers`, with room by these factors below and above.
    fn over(numbers: impl Iterator<Item = f64> + Clone, room: [f64; 2], pixels: [i32; 2]) -> Self {
        let low = numbers.clone().fold(f64::INFINITY, f64::min);
        let high = numbers.fold(0.0, f64::max);
        let [low, high] = if low <= high { [low, high] } else { [0.1, 1.0] };
        Log { ends: [low / room[0], high * room[1]], pixels }
    }

    fn at(&self, number: f64) -> i32 {
        let share = (number / self.ends[0]).ln() / (self.ends[1] / self.ends[0]).ln();
        let [a, b] = self.pixels.map(f64::from);
        (a + (b - a) * share.clamp(0.0, 1.0)).round() as i32
    }

    /// Round numbers: the fewer of each decade, the more decades there are.
    fn ticks(&self) -> Vec<f64> {
        let steps: &[&str] = match (self.ends[1] / self.ends[0]).log10() {
            ..1.5 => &["1", "1.5", "2", "3", "4", "6", "8"],
            ..4.0 => &["1", "2", "5"],
            _ => &["1"],
        };
        let decades = self.ends.map(|end| end.log10().floor() as i32);
        let all = (decades[0]..=decades[1]).flat_map(|d| steps.iter().map(move |n| format!("{n}e{d}")));
        // Read from decimal digits, they also print as such.
        let all = all.filter_map(|tick| tick.parse::<f64>().ok());
        all.filter(|tick| (self.ends[0]..=self.ends[1]).contains(tick)).collect()
    }
}

/// Left, top, right, bottom.
struct Box([i32; 4]);

impl Box {
    fn around(label: &str, (x, y): (i32, i32), anchor: HPos) -> Self {
        let wide = width(label);
        let x = match anchor {
            HPos::Left => x,
            HPos::Center => x - wide / 2,
            HPos::Right => x - wide,
        };
        Box([x, y, x + wide, y + 14])
    }

    /// Small ones in a row.
    fn along(from: (i32, i32), to: (i32, i32)) -> impl Iterator<Item = Self> {
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let steps = (dx.abs().max(dy.abs()) / 4).max(1);
        let at = move |i| (from.0 + dx * i / steps, from.1 + dy * i / steps);
        (0..=steps).map(at).map(|(x, y)| Box([x - 2, y - 2, x + 2, y + 2]))
    }

    fn overlap(&self, other: &Box) -> i32 {
        let side = |i: usize| (self.0[i + 2].min(other.0[i + 2]) - self.0[i].max(other.0[i])).max(0);
        side(0) * side(1)
    }
}

/// Where a label covers least of what is there: to the right of its point, to the left, above, below, then farther off.
fn free_spot(label: &str, (x, y): (i32, i32), taken: &[Box]) -> ((i32, i32), HPos) {
    let near = [(10, -7, HPos::Left), (-10, -7, HPos::Right), (0, -23, HPos::Center), (0, 9, HPos::Center)];
    let far = [(8, -22, HPos::Left), (8, 8, HPos::Left), (-8, -22, HPos::Right), (-8, 8, HPos::Right)];
    let farther = [(0, -38, HPos::Center), (0, 24, HPos::Center)];
    let cost = |&((x, y), anchor): &((i32, i32), HPos)| {
        let place = Box::around(label, (x, y), anchor);
        let inside = place.overlap(&Box(AREA));
        let outside = (place.0[2] - place.0[0]) * (place.0[3] - place.0[1]) - inside;
        taken.iter().map(|other| place.overlap(other)).sum::<i32>() + 4 * outside
    };
    let spots = near.into_iter().chain(far).chain(farther).map(|(dx, dy, anchor)| ((x + dx, y + dy), anchor));
    spots.min_by_key(cost).unwrap_or(((x, y), HPos::Left))
}

/// About the width of a label in pixels; nobody knows the reader's font.
fn width(label: &str) -> i32 {
    label.chars().count() as i32 * 7
}

fn path(
    canvas: &Canvas<'_>,
    points: &[(i32, i32)],
    colour: impl Color,
    wide: u32,
) -> std::result::Result<(), DrawingAreaErrorKind<std::io::Error>> {
    canvas.draw(&PathElement::new(points.to_vec(), colour.stroke_width(wide)))
}

/// Text whose top is at `at`.
fn text(
    canvas: &Canvas<'_>,
    text: &str,
    at: (i32, i32),
    size: f64,
    colour: RGBColor,
    anchor: HPos,
) -> std::result::Result<(), DrawingAreaErrorKind<std::io::Error>> {
    // XML has no place for other control characters, escaped or not.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let style = TextStyle::from(("sans-serif", size).into_font()).color(&colour);
    canvas.draw(&Text::new(text, at, style.pos(Pos::new(anchor, VPos::Top))))
}

fn mark(
    canvas: &Canvas<'_>,
    (x, y): (i32, i32),
    apart: bool,
    colour: RGBColor,
) -> std::result::Result<(), DrawingAreaErrorKind<std::io::Error>> {
    if !apart {
        return canvas.draw(&Circle::new((x, y), 5, colour.filled()));
    }
    let corners = vec![(x - 7, y), (x, y - 7), (x + 7, y), (x, y + 7), (x - 7, y)];
    canvas.draw(&Polygon::new(corners.clone(), WHITE))?;
    path(canvas, &corners, colour, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_logarithmic_and_ticks_lie_within() {
        let axis = Log::over([0.02, 2.0].into_iter(), [2.0, 5.0], [0, 300]);
        assert_eq!([0.01, 0.1, 1.0, 10.0].map(|x| axis.at(x)), [0, 100, 200, 300]);
        assert_eq!((axis.at(1e-9), axis.at(1e9)), (0, 300));
        assert_eq!(axis.ticks(), [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]);
        let narrow = Log::over([0.25, 4.0].into_iter(), [1.0, 1.0], [0, 300]).ticks();
        let narrow: Vec<String> = narrow.iter().map(f64::to_string).collect();
        assert_eq!(narrow, ["0.3", "0.4", "0.6", "0.8", "1", "1.5", "2", "3", "4"]);
        // Nothing to show still gives an axis.
        assert!(Log::over(std::iter::empty(), [1.0, 1.0], [0, 300]).ticks().len() >= 2);
    }

    #[test]
    fn labels_of_neighbouring_points_do_not_overlap() {
        let mut taken = vec![Box([294, 294, 306, 306]), Box([304, 297, 316, 309])];
        for at in [(300, 300), (310, 303)] {
            let (spot, anchor) = free_spot("w8a16+kv16", at, &taken);
            let place = Box::around("w8a16+kv16", spot, anchor);
            assert!(taken.iter().all(|other| other.overlap(&place) == 0));
            assert_eq!(place.overlap(&Box(AREA)), 70 * 14);
            taken.push(place);
        }
    }

    #[test]
    fn the_front_leaves_out_what_is_beaten() {
        let point = |x, y, apart| Point { x, y, label: String::new(), apart };
        let points = vec![
            point(2.0, 3.0, false),
            point(0.0, 9.0, false),
            point(1.0, 4.0, false),
            point(1.5, 4.5, false),
            point(1.0, 1.0, true),
        ];
        let series = Series { name: String::new(), points, line: (16.0, String::new()) };
        assert_eq!(series.front().iter().map(|p| p.x).collect::<Vec<_>>(), [1.0, 2.0]);
    }
}

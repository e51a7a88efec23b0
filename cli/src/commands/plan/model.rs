//! The model of time (docs/plan.md): stages that overlap chunk by chunk, and the link speeds where two ways take as long.

/// One way to a ready cache, for one context length.
#[derive(Clone, Debug, PartialEq)]
pub struct Way {
    /// For people and machines: `raw`, `static`, `draft w8a8+kv16`, `re-prefill`.
    pub name: String,
    /// Bits per scalar, if anything is sent.
    pub bits: Option<f64>,
    /// Bytes that cross the link.
    pub bytes: f64,
    /// Seconds before the first byte can leave, if the cache still has to be encoded.
    pub encode: f64,
    /// Seconds to decode; of a re-prefill, to compute.
    pub decode: f64,
}

/// How stages follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pipeline {
    /// Pieces that move through the stages: 1 is one stage after the other.
    pub chunks: f64,
    /// Seconds that every transfer takes beside its bytes.
    pub latency: f64,
    /// Whether encoding counts.
    pub encode: bool,
}

impl Way {
    /// Whether it uses the link.
    pub fn sends(&self) -> bool {
        self.bytes > 0.0
    }

    /// Seconds of transfer at `link` bytes a second, without latency.
    pub fn transfer(&self, link: f64) -> f64 {
        self.bytes / link
    }
}

impl Pipeline {
    /// The longest stage that is no transfer, and the others of them.
    fn compute(&self, way: &Way) -> (f64, f64) {
        let encode = if self.encode { way.encode } else { 0.0 };
        (encode.max(way.decode), encode.min(way.decode))
    }

    /// Seconds to a ready cache: the longest stage whole, of the others what their first or last chunk takes.
    pub fn ready(&self, way: &Way, link: f64) -> f64 {
        let (p, q) = self.compute(way);
        if !way.sends() {
            return p + q;
        }
        let t = way.transfer(link);
        self.latency + p.max(t) + (p.min(t) + q) / self.chunks
    }

    /// The link speed above which sending `raw` is faster than `way`; none if it never is.
    pub fn raw_wins_above(&self, way: &Way, raw: &Way) -> Option<f64> {
        let ((p, q), n) = (self.compute(way), self.chunks);
        if way.bytes >= raw.bytes {
            // Not smaller: raw is never slower.
            return Some(0.0);
        }
        // Seconds a byte at which `raw.bytes x = ready`, without the latency of both. First as if the transfer were the shorter stage.
        let short = (p + q / n) / (raw.bytes - way.bytes / n);
        let x = if way.bytes * short <= p { short } else { (p + q) / n / (raw.bytes - way.bytes) };
        (x > 0.0).then(|| 1.0 / x)
    }

    /// The link speed below which computing the cache anew is faster than `way`; none if it is at any speed.
    pub fn prefill_wins_below(&self, way: &Way, prefill: &Way) -> Option<f64> {
        let ((p, q), n) = (self.compute(way), self.chunks);
        let left = self.ready(prefill, f64::INFINITY) - self.latency;
        if left <= p + q / n {
            return None;
        }
        let short = (n * (left - p) - q) / way.bytes;
        let x = if way.bytes * short <= p { short } else { (left - (p + q) / n) / way.bytes };
        Some(1.0 / x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(bytes: f64, encode: f64, decode: f64) -> Way {
        Way { name: String::new(), bits: None, bytes, encode, decode }
    }

    #[test]
    fn stages_overlap() {
        let w = way(100.0, 3.0, 2.0);
        let four = Pipeline { chunks: 4.0, latency: 0.5, encode: false };
        // Transfer 10 s and a quarter of decoding; then transfer 1 s, a quarter of it and decoding.
        assert_eq!((four.ready(&w, 10.0), four.ready(&w, 100.0)), (0.5 + 10.0 + 0.5, 0.5 + 2.0 + 0.25));
        let encoded = Pipeline { encode: true, ..four };
        assert_eq!(
            (encoded.ready(&w, 10.0), encoded.ready(&w, 100.0)),
            (0.5 + 10.0 + 1.25, 0.5 + 3.0 + 0.75)
        );
        let one = Pipeline { chunks: 1.0, latency: 0.0, encode: true };
        assert_eq!(one.ready(&w, 10.0), 15.0);
        // What is not sent knows neither link nor latency.
        assert_eq!(four.ready(&way(0.0, 0.0, 7.0), 1e-9), 7.0);
    }

    /// At a break-even link both times agree, and around it the faster way changes.
    #[test]
    fn break_even_times_agree() {
        let (raw, near) =
            (way(1600.0, 0.0, 0.0), |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(b.abs()));
        let mut crossings = 0;
        for chunks in [1.0, 2.0, 7.0, 512.0] {
            for latency in [0.0, 0.25] {
                for encode in [false, true] {
                    let pipe = Pipeline { chunks, latency, encode };
                    for bytes in [1.0, 400.0, 1000.0, 1500.0, 1599.0] {
                        for (e, d) in [(0.1, 3.0), (5.0, 0.2), (1.0, 1.0), (0.0, 4.0)] {
                            let w = way(bytes, e, d);
                            let at = pipe.raw_wins_above(&w, &raw).unwrap();
                            assert!(near(pipe.ready(&w, at), pipe.ready(&raw, at)), "{pipe:?} {w:?} {at}");
                            assert!(pipe.ready(&w, at / 1.01) < pipe.ready(&raw, at / 1.01));
                            assert!(pipe.ready(&w, at * 1.01) > pipe.ready(&raw, at * 1.01));
                            for seconds in [0.05, 2.0, 4.5, 6.0, 50.0] {
                                let prefill = way(0.0, 0.0, seconds);
                                let Some(at) = pipe.prefill_wins_below(&w, &prefill) else {
                                    assert!(pipe.ready(&w, 1e300) >= seconds);
                                    continue;
                                };
                                crossings += 1;
                                assert!(near(pipe.ready(&w, at), seconds), "{pipe:?} {w:?} {at}");
                                assert!(
                                    pipe.ready(&w, at / 1.01) > seconds
                                        && pipe.ready(&w, at * 1.01) < seconds
                                );
                            }
                        }
                    }
                }
            }
        }
        assert!(crossings > 500, "{crossings}");
    }

    #[test]
    fn no_break_even() {
        let pipe = Pipeline { chunks: 8.0, latency: 0.0, encode: false };
        let raw = way(100.0, 0.0, 0.0);
        assert_eq!(pipe.raw_wins_above(&way(100.0, 0.0, 1.0), &raw), Some(0.0));
        assert_eq!(pipe.raw_wins_above(&way(50.0, 0.0, 0.0), &raw), None);
        assert_eq!(pipe.prefill_wins_below(&way(50.0, 0.0, 3.0), &way(0.0, 0.0, 3.0)), None);
        assert_eq!(pipe.prefill_wins_below(&raw, &way(0.0, 0.0, 4.0)), Some(25.0));
    }
}

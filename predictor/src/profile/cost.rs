//! What the modes of a profile cost, counted from its description and the types of its tensors.

use super::{Kind, Mode, NetDigits, ProfileFile};
use crate::error::Error;
use crate::work::{self, Dims, Work};

impl ProfileFile<'_> {
    /// Multiply-adds of mode `mode`, an index into the description's modes. Digits of a draft's weights are read off its first layer: all layers of a
    /// network are built alike.
    ///
    /// # Errors
    /// [`Error::Profile`] if there is no such mode, or a tensor is missing or of another shape or type.
    pub fn work(&self, mode: usize) -> Result<Work, Error> {
        let modes = &self.description.modes;
        let about =
            modes.get(mode).ok_or_else(|| Error::Profile(alloc::format!("there is no mode {mode}")))?;
        match (about.kind, about.net) {
            (Kind::Draft, Some(net)) => self.draft_work(about, net),
            (Kind::Chain, _) => self.chain_work(about, mode),
            (Kind::Static | Kind::Draft, _) => Ok(Work::default()),
        }
    }

    fn digits(&self, name: &str, out: usize, inp: usize) -> Result<usize, Error> {
        Ok(self.quantised(name, out, inp)?.1.count())
    }

    fn draft_work(&self, about: &Mode, n: usize) -> Result<Work, Error> {
        let (d, net) = (&self.description, &self.description.nets[n]);
        let dims = Dims { hidden: net.hidden, heads: net.heads, ffn: net.ffn };
        let digits = |what: &str, out: usize, inp: usize| self.digits(&self.net_tensor(n, 0, what), out, inp);
        let (width, kv_width) = (net.heads * d.head_dim, 2 * d.kv_heads * d.head_dim);
        let mut weights = NetDigits::new(digits("kv", kv_width, net.hidden)?, 1, net.digits.attention);
        // The last layer is its keys and values alone.
        if d.layers > 1 {
            weights.q = digits("q", width, net.hidden)?;
            weights.o = digits("o", net.hidden, width)?;
            weights.gate_up = digits("gate_up", 2 * net.ffn, net.hidden)?;
            weights.down = digits("down", net.hidden, net.ffn)?;
        }
        let residual = about.residual_digits;
        Ok(work::draft(d.geometry(), dims, weights, net.digits, net.wide, residual, about.feedback))
    }

    /// Of each layer: the embedded token in two digits, keys and values of earlier layers in one, regressions between its own planes.
    fn chain_work(&self, about: &Mode, mode: usize) -> Result<Work, Error> {
        let d = &self.description;
        let (width, planes) = (d.kv_heads * d.head_dim, 2 * d.kv_heads);
        let mut per_token: u64 = 0;
        for layer in 0..d.layers {
            let mut count = |what: &str, out: usize, inp: usize, activation: usize| {
                let digits = self.digits(&self.mode_tensor(mode, layer, what), out, inp)?;
                let work = work::gemm(out, inp, digits, activation);
                per_token = per_token.saturating_add(work);
                Ok::<_, Error>(())
            };
            if let (Some(embedding), true) = (&d.embedding, about.ids) {
                count("embed", 2 * width, embedding.width, 2)?;
            }
            for back in 1..=about.depth.min(layer) {
                count(&alloc::format!("past.{back}.key"), 2 * width, width, 1)?;
                count(&alloc::format!("past.{back}.value"), 2 * width, width, 1)?;
            }
            for plane in (0..planes - 1).filter(|_| about.feedback) {
                let out = (planes - 1 - plane) * d.head_dim;
                count(&alloc::format!("regress.{plane}"), out, d.head_dim, about.residual_digits)?;
            }
        }
        Ok(Work { per_token, per_pair: 0 })
    }

    /// Bytes of the tensors that mode `mode` uses, shared ones included: what a profile of this predictor alone would weigh, but for its header.
    pub fn mode_bytes(&self, mode: usize) -> usize {
        let d = &self.description;
        let Some(about) = d.modes.get(mode) else { return 0 };
        let modes = |m: usize| d.modes[m].base;
        let nets = |n: usize| d.nets[n].base;
        // The loader's own rule says whether a layer's tensor is read; no others fall back.
        let read = |name: &str, kind: &str, first: usize, base: &dyn Fn(usize) -> Option<usize>| {
            let Some(what) = name.strip_prefix(kind).and_then(|n| n.split_once('.')).map(|n| n.1) else {
                return false;
            };
            match what.rsplit_once('.') {
                Some((stem, _)) if stem.starts_with("layers.") => {
                    let used = self.own_or_base(first, base, |i| alloc::format!("{kind}{i}.{stem}"));
                    name.rsplit_once('.').is_some_and(|(name, _)| name == used)
                }
                _ => name == alloc::format!("{kind}{first}.{what}"),
            }
        };
        let used = |name: &str| {
            name == "rope.steps"
                || about.ids && name.starts_with("embed")
                || read(name, "mode.", mode, &modes)
                || about.net.is_some_and(|n| read(name, "net.", n, &nets))
        };
        self.sizes().iter().filter(|(name, _)| used(name)).map(|(_, bytes)| bytes).sum()
    }

    /// Sizes of the target, if the profile holds a network, which has the same.
    pub fn target_dims(&self) -> Option<Dims> {
        let net = self.description.nets.first()?;
        Some(Dims { hidden: net.hidden, heads: net.heads, ffn: net.ffn })
    }
}

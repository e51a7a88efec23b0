//! Weights of a draft network, packed for a backend.

use alloc::vec::Vec;

use speckv_codec_core::Part;

use crate::backend::Backend;
use crate::error::Error;
use crate::profile::ProfileFile;

/// One layer: what predicts its keys and values, and what leads to the next layer.
pub struct NetLayer<B: Backend> {
    /// K and V projections, `[2 * kv_heads * head_dim, hidden]`.
    pub kv: B::Matrix,
    /// Weights of the key norm (QK-norm models).
    pub key_norm: Option<Vec<(i16, i16)>>,
    /// Attention and MLP; absent in the last layer, where nothing needs them.
    pub rest: Option<Rest<B>>,
}

/// Attention and MLP of a layer.
pub struct Rest<B: Backend> {
    /// Query projection.
    pub q: B::Matrix,
    /// Weights of the query norm.
    pub query_norm: Option<Vec<(i16, i16)>>,
    /// Output projection.
    pub o: B::Matrix,
    /// Gate and up, `[2 * ffn, hidden]`.
    pub gate_up: B::Matrix,
    /// Down.
    pub down: B::Matrix,
}

/// All layers.
pub struct LoadedNet<B: Backend> {
    /// Layers in order.
    pub layers: Vec<NetLayer<B>>,
}

impl<B: Backend> LoadedNet<B> {
    /// Loads and packs network `index` of a profile.
    pub fn load(b: &B, file: &ProfileFile<'_>, index: usize) -> Result<Self, Error> {
        let d = &file.description;
        let (net, hd) = (&d.nets[index], d.head_dim);
        let load = |name: &str, out: usize, inp: usize| b.load(file.weights(name, out, inp)?);
        let layer = |l: usize| {
            let name = |what: &str| alloc::format!("net.{index}.layers.{l}.{what}");
            let norm = |what: &str| net.qk_norm.then(|| file.signed_scales(&name(what), hd)).transpose();
            let rest = (l + 1 < d.layers).then(|| {
                Ok::<_, Error>(Rest {
                    q: load(&name("q"), net.heads * hd, net.hidden)?,
                    query_norm: norm("query_norm")?,
                    o: load(&name("o"), net.hidden, net.heads * hd)?,
                    gate_up: load(&name("gate_up"), 2 * net.ffn, net.hidden)?,
                    down: load(&name("down"), net.hidden, net.ffn)?,
                })
            });
            Ok(NetLayer {
                kv: load(&name("kv"), 2 * d.kv_heads * hd, net.hidden)?,
                key_norm: norm("key_norm")?,
                rest: rest.transpose()?,
            })
        };
        Ok(LoadedNet { layers: (0..d.layers).map(layer).collect::<Result<_, Error>>()? })
    }
}

/// The closed loop of one layer.
pub struct Feedback<B: Backend> {
    /// For each plane of the layer but the last: from its innovations to all later planes, `[later * head_dim, head_dim]`.
    pub regress: Vec<B::Matrix>,
    /// From the innovations of keys and of values to the residual stream, `[hidden, kv_heads * head_dim]`, in units of its RMS.
    pub gain: [B::Matrix; 2],
}

impl<B: Backend> Feedback<B> {
    /// The regression from a plane to those after it; none after the last.
    pub fn regress(&self, part: Part, head: usize) -> Option<&B::Matrix> {
        let heads = self.regress.len().div_ceil(2);
        self.regress.get(part as usize * heads + head)
    }

    /// Loads the feedback of all layers of a mode.
    pub fn load(b: &B, file: &ProfileFile<'_>, mode: usize) -> Result<Vec<Self>, Error> {
        let d = &file.description;
        let hidden = d.modes[mode].net.map_or(0, |n| d.nets[n].hidden);
        let (planes, hd) = (2 * d.kv_heads, d.head_dim);
        (0..d.layers)
            .map(|l| {
                let load = |what: &str, out, inp| {
                    b.load(file.weights(&alloc::format!("mode.{mode}.layers.{l}.{what}"), out, inp)?)
                };
                let regress = |j: usize| load(&alloc::format!("regress.{j}"), (planes - 1 - j) * hd, hd);
                let gain =
                    |what: &str| load(what, if l + 1 < d.layers { hidden } else { 0 }, d.kv_heads * hd);
                Ok(Feedback {
                    regress: (0..planes - 1).map(regress).collect::<Result<_, Error>>()?,
                    gain: [gain("gain.key")?, gain("gain.value")?],
                })
            })
            .collect()
    }
}

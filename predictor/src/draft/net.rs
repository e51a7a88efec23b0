//! Weights of a draft network, packed for a backend.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::backend::Backend;
use crate::error::Error;
use crate::layer::Regress;
use crate::profile::ProfileFile;

/// One layer: what predicts its keys and values, and what leads to the next layer.
pub struct NetLayer<B: Backend> {
    /// K and V projections, `[2 * kv_heads * head_dim, hidden]`.
    pub kv: Arc<B::Matrix>,
    /// Weights of the key norm (QK-norm models).
    pub key_norm: Option<Vec<(i16, i16)>>,
    /// Attention and MLP; absent in the last layer, where nothing needs them.
    pub rest: Option<Rest<B>>,
}

/// Attention and MLP of a layer.
pub struct Rest<B: Backend> {
    /// Query projection.
    pub q: Arc<B::Matrix>,
    /// Weights of the query norm.
    pub query_norm: Option<Vec<(i16, i16)>>,
    /// Output projection.
    pub o: Arc<B::Matrix>,
    /// Gate and up, `[2 * ffn, hidden]`.
    pub gate_up: Arc<B::Matrix>,
    /// Down.
    pub down: Arc<B::Matrix>,
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
        let layer = |l: usize| {
            let load = |what: &str, out: usize, inp: usize| {
                Ok::<_, Error>(Arc::new(b.load(file.weights(
                    &file.net_tensor(index, l, what),
                    out,
                    inp,
                )?)?))
            };
            let norm = |what: &str| {
                net.qk_norm.then(|| file.signed_scales(&file.net_tensor(index, l, what), hd)).transpose()
            };
            let rest = (l + 1 < d.layers).then(|| {
                Ok::<_, Error>(Rest {
                    q: load("q", net.heads * hd, net.hidden)?,
                    query_norm: norm("query_norm")?,
                    o: load("o", net.hidden, net.heads * hd)?,
                    gate_up: load("gate_up", 2 * net.ffn, net.hidden)?,
                    down: load("down", net.hidden, net.ffn)?,
                })
            });
            Ok(NetLayer {
                kv: load("kv", 2 * d.kv_heads * hd, net.hidden)?,
                key_norm: norm("key_norm")?,
                rest: rest.transpose()?,
            })
        };
        Ok(LoadedNet { layers: (0..d.layers).map(layer).collect::<Result<_, Error>>()? })
    }
}

/// From the innovations of keys and of values to the residual stream, `[hidden, kv_heads * head_dim]`, in units of its RMS.
pub type Gain<B> = [<B as Backend>::Matrix; 2];

/// What feeds the true cache back into a draft.
pub struct Feedback<B: Backend> {
    /// Between the planes of each layer.
    pub regress: Vec<Regress<B>>,
    /// Of each layer but the last; none in an open loop.
    pub gain: Vec<Gain<B>>,
}

impl<B: Backend> Feedback<B> {
    /// Loads the feedback of a mode that runs network `net`.
    pub fn load(b: &B, file: &ProfileFile<'_>, mode: usize, net: usize) -> Result<Self, Error> {
        let d = &file.description;
        let layers = if d.modes[mode].feedback { d.layers - 1 } else { 0 };
        let gain = |l: usize, what: &str| {
            let name = file.mode_tensor(mode, l, &alloc::format!("gain.{what}"));
            b.load(file.weights(&name, d.nets[net].hidden, d.kv_heads * d.head_dim)?)
        };
        Ok(Feedback {
            regress: Regress::load(b, file, mode)?,
            gain: (0..layers)
                .map(|l| Ok([gain(l, "key")?, gain(l, "value")?]))
                .collect::<Result<_, Error>>()?,
        })
    }
}

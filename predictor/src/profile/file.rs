//! Reading and writing profile files: bounds-checked views of integer tensors.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use speckv_codec_core::Shape;

use super::describe::Description;
use crate::data::{Digits, Weights};
use crate::error::Error;
use crate::fixed::Scale;

/// A parsed profile over the bytes of its file. Tensors are checked when they are asked for.
pub struct ProfileFile<'a> {
    tensors: SafeTensors<'a>,
    /// What the profile says of itself.
    pub description: Description,
    /// BLAKE3 of the file: streams pin it.
    pub digest: [u8; 32],
    /// Size of the file in bytes.
    pub bytes: usize,
}

pub(super) fn wrong(name: &str, what: &str) -> Error {
    Error::Profile(alloc::format!("tensor `{name}`: {what}"))
}

impl<'a> ProfileFile<'a> {
    /// Parses and checks the description; hashes the file.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let bad = |e: &dyn core::fmt::Display| Error::Profile(alloc::format!("not a speckv profile ({e})"));
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| bad(&e))?;
        let json = metadata
            .metadata()
            .as_ref()
            .and_then(|m| m.get("speckv"))
            .ok_or_else(|| bad(&"no speckv description"))?;
        let description: Description = serde_json::from_str(json).map_err(|e| bad(&e))?;
        description.check()?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| bad(&e))?;
        Ok(ProfileFile { tensors, description, digest: *blake3::hash(bytes).as_bytes(), bytes: bytes.len() })
    }

    fn tensor(&self, name: &str, dtypes: &[Dtype], shape: &[usize]) -> Result<TensorView<'a>, Error> {
        let view = self.tensors.tensor(name).map_err(|_| wrong(name, "missing"))?;
        if !dtypes.contains(&view.dtype()) || view.shape() != shape {
            return Err(wrong(
                name,
                &alloc::format!("expected {dtypes:?} {shape:?}, found {:?} {:?}", view.dtype(), view.shape()),
            ));
        }
        Ok(view)
    }

    /// Names and bytes of all tensors.
    pub(super) fn sizes(&self) -> Vec<(String, usize)> {
        self.tensors.iter().map(|(name, view)| (name.to_string(), view.data().len())).collect()
    }

    /// Whether a tensor exists.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.tensor(name).is_ok()
    }

    /// Name of a tensor of a layer of network `net`, or of the network that it falls back on.
    pub fn net_tensor(&self, net: usize, layer: usize, what: &str) -> String {
        let base = |n: usize| self.description.nets[n].base;
        self.own_or_base(net, &base, |n| alloc::format!("net.{n}.layers.{layer}.{what}"))
    }

    /// Name of a tensor of a layer of mode `mode`, or of the mode that it falls back on.
    pub fn mode_tensor(&self, mode: usize, layer: usize, what: &str) -> String {
        let base = |m: usize| self.description.modes[m].base;
        self.own_or_base(mode, &base, |m| alloc::format!("mode.{m}.layers.{layer}.{what}"))
    }

    /// The name of index `index`, or, where there are no scales of that name, that of its base, and so on.
    pub(super) fn own_or_base(
        &self,
        index: usize,
        base: &dyn Fn(usize) -> Option<usize>,
        name: impl Fn(usize) -> String,
    ) -> String {
        let own = name(index);
        // A base comes before what falls back on it (checked when the description was): this ends.
        match base(index) {
            Some(base_index) if !self.has(&alloc::format!("{own}.m")) => {
                self.own_or_base(base_index, base, name)
            }
            _ => own,
        }
    }

    /// An i16 tensor.
    pub fn i16s(&self, name: &str, shape: &[usize]) -> Result<Vec<i16>, Error> {
        let view = self.tensor(name, &[Dtype::I16], shape)?;
        Ok(view.data().chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect())
    }

    /// An i32 tensor.
    pub fn i32s(&self, name: &str, shape: &[usize]) -> Result<Vec<i32>, Error> {
        let view = self.tensor(name, &[Dtype::I32], shape)?;
        Ok(view.data().chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// A u64 tensor (stored as I64).
    pub fn u64s(&self, name: &str, shape: &[usize]) -> Result<Vec<u64>, Error> {
        let view = self.tensor(name, &[Dtype::I64], shape)?;
        Ok(view.data().chunks_exact(8).map(|b| u64::from_le_bytes(core::array::from_fn(|i| b[i]))).collect())
    }

    /// Scales `{name}.m`, `{name}.e`: mantissas 0 or 2^14..2^15.
    pub fn scales(&self, name: &str, n: usize) -> Result<Vec<Scale>, Error> {
        let m = self.i16s(&alloc::format!("{name}.m"), &[n])?;
        let e = self.i16s(&alloc::format!("{name}.e"), &[n])?;
        if m.iter().any(|m| *m != 0 && *m < 1 << 14) || e.iter().any(|e| e.unsigned_abs() > 512) {
            return Err(wrong(name, "scale out of range"));
        }
        Ok(m.into_iter().zip(e).map(|(m, e)| Scale { m, e }).collect())
    }

    /// Signed scales: mantissa up to 15 bits and a sign.
    pub fn signed_scales(&self, name: &str, n: usize) -> Result<Vec<(i16, i16)>, Error> {
        let m = self.i16s(&alloc::format!("{name}.m"), &[n])?;
        let e = self.i16s(&alloc::format!("{name}.e"), &[n])?;
        if m.contains(&i16::MIN) || e.iter().any(|e| e.unsigned_abs() > 512) {
            return Err(wrong(name, "scale out of range"));
        }
        Ok(m.into_iter().zip(e).collect())
    }

    /// Quantised values `{name}.q` of shape `[rows, cols]`, and their digits (I8: one, I16: two).
    pub(super) fn quantised(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
    ) -> Result<(TensorView<'a>, Digits), Error> {
        let view = self.tensor(&alloc::format!("{name}.q"), &[Dtype::I8, Dtype::I16], &[rows, cols])?;
        let digits = if view.dtype() == Dtype::I8 { Digits::One } else { Digits::Two };
        Ok((view, digits))
    }

    /// Weights `[out, inp]` with their scales and, if there, bias.
    pub fn weights(&self, name: &str, out: usize, inp: usize) -> Result<Weights, Error> {
        let (view, digits) = self.quantised(name, out, inp)?;
        let values = digit_values(view.data(), digits);
        if values.iter().any(|v| v.unsigned_abs() as i32 > digits.levels()) {
            return Err(wrong(name, "weight out of range"));
        }
        let bias_name = alloc::format!("{name}.bias");
        let bias = if self.has(&bias_name) { Some(self.values(&bias_name, &[out])?) } else { None };
        Ok(Weights { out, inp, digits, values, scales: self.scales(name, out)?, bias })
    }

    /// Fixed-point values of an I32 tensor, checked against the limit.
    pub fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<i32>, Error> {
        let all = self.i32s(name, shape)?;
        if all.iter().any(|v| v.unsigned_abs() > crate::fixed::LIMIT as u32) {
            return Err(wrong(name, "value out of range"));
        }
        Ok(all)
    }

    /// Distribution shapes `{name}` `[n, 66]`: 65 knots and the escape frequency.
    pub fn shapes(&self, name: &str, n: usize) -> Result<Vec<Shape>, Error> {
        let all = self.i32s(name, &[n, 66])?;
        let shape = |row: &[i32]| {
            let mut knots = [0u16; 65];
            for (k, v) in knots.iter_mut().zip(row) {
                *k = u16::try_from(*v).map_err(|_| wrong(name, "knot out of range"))?;
            }
            let escape = u16::try_from(row[65]).map_err(|_| wrong(name, "escape out of range"))?;
            Shape::new(knots, escape).map_err(|e| wrong(name, &e.to_string()))
        };
        all.chunks_exact(66).map(shape).collect()
    }
}

pub(super) fn digit_values(bytes: &[u8], digits: Digits) -> Vec<i16> {
    match digits {
        Digits::One => bytes.iter().map(|b| *b as i8 as i16).collect(),
        Digits::Two => bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect(),
    }
}

/// Collects tensors and writes a profile. The same tensors in any order give the same bytes.
#[derive(Default)]
pub struct ProfileWriter {
    tensors: alloc::collections::BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

impl ProfileWriter {
    /// Adds an i16 tensor.
    pub fn i16s(&mut self, name: &str, shape: &[usize], values: &[i16]) {
        self.put(name, Dtype::I16, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    /// Adds an i32 tensor.
    pub fn i32s(&mut self, name: &str, shape: &[usize], values: &[i32]) {
        self.put(name, Dtype::I32, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    /// Adds a u64 tensor, stored as I64.
    pub fn u64s(&mut self, name: &str, shape: &[usize], values: &[u64]) {
        self.put(name, Dtype::I64, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    /// Adds scales.
    pub fn scales(&mut self, name: &str, scales: &[Scale]) {
        self.signed_scales(name, &scales.iter().map(|s| (s.m, s.e)).collect::<Vec<_>>());
    }

    /// Adds signed scales.
    pub fn signed_scales(&mut self, name: &str, scales: &[(i16, i16)]) {
        self.i16s(
            &alloc::format!("{name}.m"),
            &[scales.len()],
            &scales.iter().map(|s| s.0).collect::<Vec<_>>(),
        );
        self.i16s(
            &alloc::format!("{name}.e"),
            &[scales.len()],
            &scales.iter().map(|s| s.1).collect::<Vec<_>>(),
        );
    }

    /// Adds weights.
    pub fn weights(&mut self, name: &str, w: &Weights) {
        let q = alloc::format!("{name}.q");
        match w.digits {
            Digits::One => {
                self.put(&q, Dtype::I8, &[w.out, w.inp], w.values.iter().map(|v| *v as i8 as u8).collect())
            }
            Digits::Two => self.i16s(&q, &[w.out, w.inp], &w.values),
        }
        self.scales(name, &w.scales);
        if let Some(bias) = &w.bias {
            self.i32s(&alloc::format!("{name}.bias"), &[w.out], bias);
        }
    }

    /// Adds shapes.
    pub fn shapes(&mut self, name: &str, shapes: &[Shape]) {
        let rows: Vec<i32> = shapes
            .iter()
            .flat_map(|s| s.knots().iter().map(|k| *k as i32).chain([s.escape() as i32]))
            .collect();
        self.i32s(name, &[shapes.len(), 66], &rows);
    }

    fn put(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>) {
        self.tensors.insert(name.to_string(), (dtype, shape.to_vec(), bytes));
    }

    /// The profile's bytes.
    pub fn finish(self, description: &Description) -> Result<Vec<u8>, Error> {
        description.check()?;
        let fail = |e: &dyn core::fmt::Display| Error::Profile(alloc::format!("cannot write: {e}"));
        let json = serde_json::to_string(description).map_err(|e| fail(&e))?;
        let views: Result<Vec<_>, _> = self
            .tensors
            .iter()
            .map(|(name, (dtype, shape, bytes))| {
                TensorView::new(*dtype, shape.clone(), bytes).map(|v| (name.as_str(), v))
            })
            .collect();
        let views = views.map_err(|e| fail(&e))?;
        safetensors::tensor::serialize(views, Some(core::iter::once(("speckv".to_string(), json)).collect()))
            .map_err(|e| fail(&e))
    }
}

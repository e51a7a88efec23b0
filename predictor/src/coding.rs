//! How a mode prices residuals: channel scales, token-scale regressions and shapes, as a profile holds them.

use alloc::vec::Vec;

use speckv_codec_core::{Geometry, Part, Shape};

use crate::error::Error;
use crate::predict::TOKEN_FEATURES;
use crate::profile::{ProfileFile, ProfileWriter};

/// Pricing tables of one mode.
#[derive(Clone, Debug, PartialEq)]
pub struct CodingTables {
    geometry: Geometry,
    /// Scale indices `[layers, 2, kv_heads, head_dim]`.
    pub channel: Vec<i16>,
    /// Token-scale weights and bias `[layers, 2, kv_heads, TOKEN_FEATURES + 1]`, 16 fractional bits.
    pub token: Vec<i32>,
    /// One shape a (layer, part).
    pub shapes: Vec<Shape>,
}

impl CodingTables {
    /// Neutral tables of a geometry, to be filled in.
    pub fn new(geometry: Geometry, shape: Shape) -> CodingTables {
        let planes = geometry.layers * 2 * geometry.kv_heads;
        CodingTables {
            geometry,
            channel: alloc::vec![0; planes * geometry.head_dim],
            token: alloc::vec![0; planes * (TOKEN_FEATURES + 1)],
            shapes: alloc::vec![shape; geometry.layers * 2],
        }
    }

    /// From mode `mode` of a profile.
    pub fn load(file: &ProfileFile<'_>, mode: usize) -> Result<CodingTables, Error> {
        let g = file.description.geometry();
        let name = |what: &str| alloc::format!("mode.{mode}.{what}");
        let channel = file.i16s(&name("channel"), &[g.layers, 2, g.kv_heads, g.head_dim])?;
        if channel.iter().any(|c| c.unsigned_abs() > 1024) {
            return Err(Error::Profile(alloc::format!("mode {mode}: channel scale out of range")));
        }
        Ok(CodingTables {
            geometry: g,
            channel,
            token: file.i32s(&name("token"), &[g.layers, 2, g.kv_heads, TOKEN_FEATURES + 1])?,
            shapes: file.shapes(&name("shapes"), g.layers * 2)?,
        })
    }

    /// Writes the tables as mode `mode`.
    pub fn save(&self, out: &mut ProfileWriter, mode: usize) {
        let g = self.geometry;
        let name = |what: &str| alloc::format!("mode.{mode}.{what}");
        out.i16s(&name("channel"), &[g.layers, 2, g.kv_heads, g.head_dim], &self.channel);
        out.i32s(&name("token"), &[g.layers, 2, g.kv_heads, TOKEN_FEATURES + 1], &self.token);
        out.shapes(&name("shapes"), &self.shapes);
    }

    fn plane(&self, layer: usize, part: Part, head: usize) -> usize {
        (2 * layer + part as usize) * self.geometry.kv_heads + head
    }

    /// Scale indices of a plane's channels.
    pub fn channel(&self, layer: usize, part: Part, head: usize) -> &[i16] {
        let hd = self.geometry.head_dim;
        &self.channel[self.plane(layer, part, head) * hd..][..hd]
    }

    /// The same, to fill in.
    pub fn channel_mut(&mut self, layer: usize, part: Part, head: usize) -> &mut [i16] {
        let hd = self.geometry.head_dim;
        let at = self.plane(layer, part, head) * hd;
        &mut self.channel[at..at + hd]
    }

    /// Token-scale weights of a plane, the bias last.
    pub fn token(&self, layer: usize, part: Part, head: usize) -> &[i32] {
        &self.token[self.plane(layer, part, head) * (TOKEN_FEATURES + 1)..][..TOKEN_FEATURES + 1]
    }

    /// The same, to fill in.
    pub fn token_mut(&mut self, layer: usize, part: Part, head: usize) -> &mut [i32] {
        let at = self.plane(layer, part, head) * (TOKEN_FEATURES + 1);
        &mut self.token[at..at + TOKEN_FEATURES + 1]
    }

    /// Shape of a plane.
    pub fn shape(&self, layer: usize, part: Part) -> &Shape {
        &self.shapes[2 * layer + part as usize]
    }
}

//! Cache files: safetensors with `layers.{l}.key`, `layers.{l}.value` (`[heads, tokens, head_dim]`), for the
//! fp8 formats optional `layers.{l}.key_scale` and `value_scale`, and optional `token_ids`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors, View};
use speckv_codec_core::ElementFormat;

use super::{Cache, PARTS, is_fp8, is_scale};
use crate::error::{Error, Result};

impl Cache {
    /// Reads a cache file. Whatever does not fit the format is refused, names it does not know included:
    /// a codec that dropped them would not be lossless.
    pub fn read(path: &Path) -> Result<Cache> {
        let map = crate::map_file(path)?;
        let file = SafeTensors::deserialize(&map)
            .map_err(|e| Error::malformed(path, format!("not a readable safetensors file: {e}")))?;
        Reader { path, file }.cache()
    }

    /// Writes a cache file: under a temporary name in the same folder, flushed to the disk, then renamed, so
    /// that a crash leaves the old file or the new one and never half of one.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.check()?;
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        {
            // The usual permissions of a new file; temporary ones are private otherwise.
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.prefix(".speckv-").tempfile_in(folder).map_err(|e| Error::io(folder, e))?;
        // The library puts a file of its own in the place of this one: to whom it is open and that it is on the disk is ours to see to.
        let permissions = temporary.as_file().metadata().map_err(|e| Error::io(path, e))?.permissions();
        safetensors::serialize_to_file(self.tensors()?, None, temporary.path())
            .map_err(|e| Error::io(path, std::io::Error::other(e)))?;
        let written = File::options().write(true).open(temporary.path()).map_err(|e| Error::io(path, e))?;
        written.set_permissions(permissions).map_err(|e| Error::io(path, e))?;
        written.sync_all().map_err(|e| Error::io(path, e))?;
        temporary.persist(path).map_err(|e| Error::io(path, e.error))?;
        Ok(())
    }

    fn tensors(&self) -> Result<Vec<(String, Owned<'_>)>> {
        let mut all = Vec::new();
        let shape = vec![self.kv_heads, self.tokens, self.head_dim];
        for (layer, pair) in self.planes.iter().enumerate() {
            for (part, plane) in PARTS.iter().zip(pair) {
                all.push((
                    format!("layers.{layer}.{part}"),
                    Owned { dtype: dtype(self.format), shape: shape.clone(), data: Cow::Borrowed(plane) },
                ));
            }
        }
        for (layer, pair) in self.scales.iter().flatten().enumerate() {
            for (part, list) in PARTS.iter().zip(pair) {
                let data = list.iter().flat_map(|s| s.to_le_bytes()).collect();
                all.push((
                    format!("layers.{layer}.{part}_scale"),
                    Owned { dtype: Dtype::F32, shape: vec![list.len()], data: Cow::Owned(data) },
                ));
            }
        }
        if let Some(ids) = &self.token_ids {
            let data = ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
            all.push((
                "token_ids".to_owned(),
                Owned { dtype: Dtype::I64, shape: vec![ids.len()], data: Cow::Owned(data) },
            ));
        }
        Ok(all)
    }
}

/// A tensor to be written, borrowed where it can be.
struct Owned<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Cow<'a, [u8]>,
}

impl View for Owned<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.data)
    }
    fn data_len(&self) -> usize {
        self.data.len()
    }
}

fn dtype(format: ElementFormat) -> Dtype {
    match format {
        ElementFormat::Bf16 => Dtype::BF16,
        ElementFormat::F16 => Dtype::F16,
        ElementFormat::E4m3 => Dtype::F8_E4M3,
        ElementFormat::E5m2 => Dtype::F8_E5M2,
    }
}

/// A file being checked.
struct Reader<'a> {
    path: &'a Path,
    file: SafeTensors<'a>,
}

impl<'a> Reader<'a> {
    fn wrong(&self, reason: String) -> Error {
        Error::malformed(self.path, reason)
    }

    fn tensor(&self, name: &str) -> Result<TensorView<'a>> {
        self.file.tensor(name).map_err(|_| self.wrong(format!("tensor {name} is missing")))
    }

    fn cache(&self) -> Result<Cache> {
        let layers = self.layers()?;
        let first = self.tensor("layers.0.key")?;
        let format = match first.dtype() {
            Dtype::BF16 => ElementFormat::Bf16,
            Dtype::F16 => ElementFormat::F16,
            Dtype::F8_E4M3 => ElementFormat::E4m3,
            Dtype::F8_E5M2 => ElementFormat::E5m2,
            other => {
                return Err(self.wrong(format!(
                    "layers.0.key: expected dtype BF16, F16, F8_E4M3 or F8_E5M2, found {other:?}"
                )));
            }
        };
        let &[kv_heads, tokens, head_dim] = first.shape() else {
            return Err(self.wrong(format!(
                "layers.0.key: expected shape [heads, tokens, head_dim], found {:?}",
                first.shape()
            )));
        };
        let mut planes = Vec::with_capacity(layers);
        for layer in 0..layers {
            let part = |part: &str| -> Result<Vec<u8>> {
                let name = format!("layers.{layer}.{part}");
                let view = self.tensor(&name)?;
                self.expect(&name, &view, &[dtype(format)], first.shape())?;
                Ok(view.data().to_vec())
            };
            planes.push([part(PARTS[0])?, part(PARTS[1])?]);
        }
        let scales = self.scales(format, layers, kv_heads)?;
        let token_ids = self.token_ids(tokens)?;
        let cache = Cache { format, layers, kv_heads, head_dim, tokens, planes, scales, token_ids };
        cache.check().map_err(|e| self.wrong(e.to_string()))?;
        Ok(cache)
    }

    /// Number of layers; refuses names that no cache file has and gaps in the numbering.
    fn layers(&self) -> Result<usize> {
        let mut found = BTreeSet::new();
        for name in self.file.names() {
            if name == "token_ids" {
                continue;
            }
            let layer = name.strip_prefix("layers.").and_then(|rest| {
                let (number, part) = rest.split_once('.')?;
                let known = PARTS.contains(&part.strip_suffix("_scale").unwrap_or(part));
                let layer = number.parse::<usize>().ok()?;
                // "01" or "+1" would be a second name for the same layer.
                (known && layer.to_string() == number).then_some(layer)
            });
            match layer {
                Some(layer) => found.insert(layer),
                None => return Err(self.wrong(format!("holds {name}, which is no part of a cache file"))),
            };
        }
        match found.iter().enumerate().find(|&(i, &layer)| i != layer) {
            Some((missing, _)) => Err(self.wrong(format!("tensor layers.{missing}.key is missing"))),
            None if found.is_empty() => Err(self.wrong("tensor layers.0.key is missing".to_owned())),
            None => Ok(found.len()),
        }
    }

    fn expect(&self, name: &str, view: &TensorView, dtypes: &[Dtype], shape: &[usize]) -> Result<()> {
        if !dtypes.contains(&view.dtype()) {
            let list: Vec<String> = dtypes.iter().map(|d| format!("{d:?}")).collect();
            let list = list.join(" or ");
            return Err(self.wrong(format!("{name}: expected dtype {list}, found {:?}", view.dtype())));
        }
        if view.shape() != shape {
            return Err(self.wrong(format!("{name}: expected shape {shape:?}, found {:?}", view.shape())));
        }
        Ok(())
    }

    /// All scales or none.
    fn scales(
        &self,
        format: ElementFormat,
        layers: usize,
        kv_heads: usize,
    ) -> Result<Option<Vec<[Vec<f32>; 2]>>> {
        let Some(some) = self.file.names().into_iter().find(|name| name.ends_with("_scale")) else {
            return Ok(None);
        };
        if !is_fp8(format) {
            return Err(self.wrong(format!("expected no scales with {:?}, found {some}", dtype(format))));
        }
        let mut all = Vec::with_capacity(layers);
        for layer in 0..layers {
            let part = |part: &str| -> Result<Vec<f32>> {
                let name = format!("layers.{layer}.{part}_scale");
                let view = self.tensor(&name)?;
                let one = matches!(view.shape(), [] | [1]);
                let shape = if one { view.shape().to_vec() } else { vec![kv_heads] };
                self.expect(&name, &view, &[Dtype::F32], &shape)?;
                let list: Vec<f32> = view
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect();
                match list.iter().find(|s| !is_scale(**s)) {
                    Some(bad) => {
                        Err(self.wrong(format!("{name}: expected finite scales above 0, found {bad}")))
                    }
                    None => Ok(list),
                }
            };
            all.push([part(PARTS[0])?, part(PARTS[1])?]);
        }
        Ok(Some(all))
    }

    fn token_ids(&self, tokens: usize) -> Result<Option<Vec<u32>>> {
        let Ok(view) = self.file.tensor("token_ids") else { return Ok(None) };
        self.expect("token_ids", &view, &[Dtype::I64, Dtype::I32], &[tokens])?;
        let data = view.data();
        let wide: Vec<i64> = if view.dtype() == Dtype::I64 {
            let eight = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
            data.chunks_exact(8).map(eight).collect()
        } else {
            data.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        };
        let ids = wide.into_iter().map(|id| {
            u32::try_from(id)
                .map_err(|_| self.wrong(format!("token_ids: expected ids of 32 bits, found {id}")))
        });
        ids.collect::<Result<Vec<u32>>>().map(Some)
    }
}

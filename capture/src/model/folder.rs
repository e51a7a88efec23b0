//! A model in a Hugging Face folder: safetensors, in one file or in shards.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};

/// One tensor's place in one of the mapped files.
struct Place {
    shard: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Byte range in the file.
    range: std::ops::Range<usize>,
}

/// The mapped weight files; tensors are converted when asked for.
pub(crate) struct Folder {
    shards: Vec<(PathBuf, Mmap)>,
    places: HashMap<String, Place>,
    root: PathBuf,
}

impl Folder {
    /// Maps every weight file of the folder `root` and reads their headers.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let mut folder = Folder { shards: Vec::new(), places: HashMap::new(), root: root.to_owned() };
        for path in weight_files(root)? {
            folder.add(path)?;
        }
        Ok(folder)
    }

    fn add(&mut self, path: PathBuf) -> Result<()> {
        let map = crate::map_file(&path)?;
        let tensors = SafeTensors::deserialize(&map)
            .map_err(|e| Error::malformed(&path, format!("not a readable safetensors file: {e}")))?;
        for (name, view) in tensors.iter() {
            // The view borrows from the map, so its distance from the start is its offset in the file.
            let start = view.data().as_ptr() as usize - map.as_ptr() as usize;
            let place = Place {
                shard: self.shards.len(),
                dtype: view.dtype(),
                shape: view.shape().to_vec(),
                range: start..start + view.data().len(),
            };
            self.places.insert(name.to_owned(), place);
        }
        self.shards.push((path, map));
        Ok(())
    }

    /// Whether the folder holds a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// A tensor converted to f32.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor> {
        let place = self
            .places
            .get(name)
            .ok_or_else(|| Error::malformed(&self.root, format!("tensor {name} is missing")))?;
        let dtype = match place.dtype {
            Dtype::BF16 => DType::BF16,
            Dtype::F16 => DType::F16,
            Dtype::F32 => DType::F32,
            other => {
                return Err(Error::unsupported(format!("{name} in {other:?}"), "BF16, F16, F32 weights"));
            }
        };
        let (_, map) = &self.shards[place.shard];
        let tensor = Tensor::from_raw_buffer(&map[place.range.clone()], dtype, &place.shape, &Device::Cpu)?;
        Ok(tensor.to_dtype(DType::F32)?)
    }
}

/// `model.safetensors`, or the shards its index names, or failing both every `.safetensors` there is.
fn weight_files(root: &Path) -> Result<Vec<PathBuf>> {
    let single = root.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = root.join("model.safetensors.index.json");
    let mut files: Vec<PathBuf> = Vec::new();
    if index.is_file() {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: HashMap<String, String>,
        }
        let text = std::fs::read_to_string(&index).map_err(|e| Error::io(&index, e))?;
        let parsed: Index = serde_json::from_str(&text)
            .map_err(|e| Error::malformed(&index, format!("not an index: {e}")))?;
        for name in parsed.weight_map.into_values() {
            // An index that points elsewhere is no part of this model.
            if Path::new(&name).file_name() != Some(name.as_ref()) {
                return Err(Error::malformed(&index, format!("shard \"{name}\" is not a plain file name")));
            }
            files.push(root.join(name));
        }
    } else {
        for entry in std::fs::read_dir(root).map_err(|e| Error::io(root, e))? {
            let path = entry.map_err(|e| Error::io(root, e))?.path();
            if path.extension().is_some_and(|e| e == "safetensors") {
                files.push(path);
            }
        }
    }
    files.sort();
    files.dedup();
    if files.is_empty() {
        return Err(Error::malformed(root, "holds no .safetensors file"));
    }
    Ok(files)
}

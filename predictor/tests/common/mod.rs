//! Profiles changed as no writer would.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::Value;

/// Tensors by name: type, shape, bytes.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// A profile after `change` has been at its description and its tensors, unchecked.
pub fn edit(profile: &[u8], change: impl FnOnce(&mut Value, &mut Tensors)) -> Vec<u8> {
    let (_, metadata) = SafeTensors::read_metadata(profile).unwrap();
    let mut about = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["speckv"]).unwrap();
    let read = SafeTensors::deserialize(profile).unwrap();
    let mut tensors: Tensors = read
        .iter()
        .map(|(name, v)| (name.to_string(), (v.dtype(), v.shape().to_vec(), v.data().to_vec())))
        .collect();
    change(&mut about, &mut tensors);
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    let about = [("speckv".to_string(), about.to_string())].into();
    serialize(views.collect::<Vec<_>>(), Some(about)).unwrap()
}

//! Builds a profile from a model and texts: `fit MODEL OUT TOKENS SEQUENCES TEXT...`.
use speckv_backend_cpu::CpuBackend;
use speckv_capture::ModelSource;
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let source = ModelSource::open(args[1].as_ref())?;
    let (tokens, count): (usize, usize) = (args[3].parse()?, args[4].parse()?);
    let ids: Vec<Vec<u32>> = args[5..]
        .iter()
        .map(|f| source.encode(&std::fs::read_to_string(f)?).map_err(Into::into))
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let mut sequences = Vec::new();
    for i in 0.. {
        if sequences.len() >= count || ids.iter().all(|x| x.len() < (i + 1) * tokens) {
            break;
        }
        for x in &ids {
            if x.len() >= (i + 1) * tokens && sequences.len() < count {
                sequences.push(x[i * tokens..(i + 1) * tokens].to_vec());
            }
        }
    }
    let b = CpuBackend::best();
    let start = std::time::Instant::now();
    let mut last = String::new();
    let built = speckv_build::build(
        &b,
        &source,
        &sequences,
        &speckv_build::Options { name: args[1].clone(), ..Default::default() },
        &mut |stage, done, total| {
            if stage != last || done % 8 == 0 {
                eprintln!("{:6.1} {stage} {done}/{total}", start.elapsed().as_secs_f64());
                last = stage.into();
            }
        },
    )?;
    eprintln!("{:6.1} done", start.elapsed().as_secs_f64());
    println!("{}", serde_json::to_string_pretty(&built.report)?);
    std::fs::write(&args[2], built.profile)?;
    Ok(())
}

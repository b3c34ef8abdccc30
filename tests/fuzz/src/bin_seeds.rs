//! Writes the seeds of every target below the folder that is named, one file each; existing ones stay.

use std::path::PathBuf;

fn main() -> std::io::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).expect("seeds FOLDER"));
    for target in ringstone_fuzz::TARGETS {
        let of_target = folder.join(target.name);
        std::fs::create_dir_all(&of_target)?;
        for (number, seed) in (target.seeds)().into_iter().enumerate() {
            (target.run)(&seed);
            std::fs::write(of_target.join(format!("seed-{number:02}")), seed)?;
        }
    }
    Ok(())
}

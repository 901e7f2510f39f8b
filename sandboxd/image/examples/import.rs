//! Imports an archive into a store and says how long it took: `import ROOT ARCHIVE`.

use std::path::PathBuf;
use std::time::Instant;

use sandboxd_image::{Images, Settings};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [root, archive] = &arguments[..] else { return Err("usage: import ROOT ARCHIVE".into()) };
    let images = Images::open(root, Settings::default())?;
    let begun = Instant::now();
    for image in images.import(archive, None).await? {
        println!(
            "{} {:?}, {} layers, {} bytes of blobs",
            image.id,
            image.repo_tags,
            image.layers.len(),
            image.size
        );
    }
    println!("imported in {} ms; {:?}", begun.elapsed().as_millis(), images.usage());
    Ok(())
}

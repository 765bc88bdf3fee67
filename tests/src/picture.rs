//! Pictures of a terminal's screen, drawn cell by cell, as PNG.

use std::{collections::BTreeMap, fs, path::Path};

use ab_glyph::{Font as _, FontVec, PxScale, ScaleFont as _, point};
use anyhow::{Context as _, Result};
use png::{BitDepth, ColorType, Compression, Encoder};
use vt100::{Cell, Color, Screen};

/// Pixels of a cell.
const WIDTH: usize = 9;
/// The same, downwards.
const HEIGHT: usize = 19;
/// Pixels around the screen.
const MARGIN: usize = 10;
/// Where the fonts are, of Debian's package `fonts-dejavu-core`.
const FONTS: &str = "/usr/share/fonts/truetype/dejavu";

/// Shades between a character and its ground: few, so that a picture's colours fit into a palette.
const SHADES: f32 = 8.0;

type Rgb = [u8; 3];

const GROUND: Rgb = [0x16, 0x19, 0x1f];
const TEXT: Rgb = [0xd6, 0xda, 0xe0];
/// The sixteen named colours.
const PALETTE: [Rgb; 16] = [
    [0x2a, 0x2e, 0x36],
    [0xe0, 0x60, 0x5c],
    [0x7f, 0xb8, 0x65],
    [0xd8, 0xa6, 0x4a],
    [0x62, 0x9f, 0xdf],
    [0xb7, 0x86, 0xd6],
    [0x56, 0xb6, 0xb8],
    [0xc3, 0xc8, 0xd0],
    [0x78, 0x80, 0x8c],
    [0xff, 0x7b, 0x72],
    [0x95, 0xd3, 0x77],
    [0xf0, 0xc0, 0x60],
    [0x7d, 0xb8, 0xf5],
    [0xd0, 0xa2, 0xee],
    [0x74, 0xd0, 0xd2],
    [0xff, 0xff, 0xff],
];

/// What is drawn with.
pub struct Pen {
    regular: FontVec,
    bold: FontVec,
}

impl std::fmt::Debug for Pen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pen")
    }
}

impl Pen {
    /// Reads the fonts.
    ///
    /// # Errors
    /// When they are not installed; the message says which package has them.
    pub fn new() -> Result<Pen> {
        let font = |name: &str| {
            let path = Path::new(FONTS).join(name);
            let bytes = fs::read(&path)
                .with_context(|| format!("{}: is fonts-dejavu-core installed?", path.display()))?;
            FontVec::try_from_vec(bytes).with_context(|| path.display().to_string())
        };
        Ok(Pen {
            regular: font("DejaVuSansMono.ttf")?,
            bold: font("DejaVuSansMono-Bold.ttf")?,
        })
    }

    /// The first `rows` rows of a screen, as the bytes of a PNG file.
    ///
    /// # Errors
    /// When they can't be compressed.
    pub fn png(&self, screen: &Screen, rows: u16) -> Result<Vec<u8>> {
        let (_, columns) = screen.size();
        let mut canvas = Canvas::new(usize::from(columns.get()), usize::from(rows));
        for row in 0..rows {
            for column in 0..columns.get() {
                if let Some(cell) = screen.cell(row, column) {
                    self.draw(&mut canvas, cell, usize::from(column), usize::from(row));
                }
            }
        }
        canvas.png()
    }

    fn draw(&self, canvas: &mut Canvas, cell: &Cell, column: usize, row: usize) {
        let (mut text, mut ground) = (rgb(cell.fgcolor(), TEXT), rgb(cell.bgcolor(), GROUND));
        if cell.dim() {
            text = mixed(text, ground, 0.45);
        }
        if cell.inverse() {
            (text, ground) = (ground, text);
        }
        let (left, top) = (MARGIN + column * WIDTH, MARGIN + row * HEIGHT);
        if ground != GROUND {
            canvas.fill(left, top, ground);
        }
        let font = match cell.bold() {
            true => &self.bold,
            false => &self.regular,
        };
        let scale = scale(font);
        #[expect(clippy::cast_precision_loss, reason = "pixels of a screen")]
        let (x, y) = (
            left as f32,
            top as f32 + 1.0 + font.as_scaled(scale).ascent(),
        );
        for c in cell.contents().chars().filter(|c| *c != ' ') {
            let glyph = font.glyph_id(c).with_scale_and_position(scale, point(x, y));
            let Some(outline) = font.outline_glyph(glyph) else {
                continue;
            };
            let bounds = outline.px_bounds();
            outline.draw(|dx, dy, share| {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a glyph lies within the picture, or is cut"
                )]
                let (x, y) = (
                    bounds.min.x.max(0.0) as usize + dx as usize,
                    bounds.min.y.max(0.0) as usize + dy as usize,
                );
                canvas.blend(x, y, text, (share * SHADES).round() / SHADES);
            });
        }
    }
}

/// The size at which a font's characters are as wide as a cell.
fn scale(font: &FontVec) -> PxScale {
    let unit = PxScale::from(100.0);
    let advance = font.as_scaled(unit).h_advance(font.glyph_id('M'));
    #[expect(clippy::cast_precision_loss, reason = "pixels of a cell")]
    PxScale::from(100.0 * WIDTH as f32 / advance)
}

fn rgb(color: Color, default: Rgb) -> Rgb {
    match color {
        Color::Default => default,
        Color::Idx(index @ 0..16) => PALETTE[usize::from(index)],
        // 6 levels of each colour, then 24 of grey: xterm's table
        Color::Idx(index @ 16..232) => {
            let level = |of: u8| if of == 0 { 0 } else { 55 + of * 40 };
            let cube = index - 16;
            [level(cube / 36), level(cube / 6 % 6), level(cube % 6)]
        }
        Color::Idx(index) => [8 + (index - 232) * 10; 3],
        Color::Rgb(red, green, blue) => [red, green, blue],
    }
}

/// `one` with a share of `other`.
fn mixed(one: Rgb, other: Rgb, share: f32) -> Rgb {
    let mix = |a: u8, b: u8| {
        let mixed = f32::from(a) + (f32::from(b) - f32::from(a)) * share.clamp(0.0, 1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between two bytes"
        )]
        let byte = mixed.round() as u8;
        byte
    };
    [
        mix(one[0], other[0]),
        mix(one[1], other[1]),
        mix(one[2], other[2]),
    ]
}

/// Pixels, row by row.
struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<Rgb>,
}

impl Canvas {
    fn new(columns: usize, rows: usize) -> Canvas {
        let (width, height) = (columns * WIDTH + 2 * MARGIN, rows * HEIGHT + 2 * MARGIN);
        Canvas {
            width,
            height,
            pixels: vec![GROUND; width * height],
        }
    }

    fn fill(&mut self, left: usize, top: usize, color: Rgb) {
        for y in top..top + HEIGHT {
            for x in left..left + WIDTH {
                self.blend(x, y, color, 1.0);
            }
        }
    }

    fn blend(&mut self, x: usize, y: usize, color: Rgb, share: f32) {
        if x < self.width && y < self.height {
            let pixel = &mut self.pixels[y * self.width + x];
            *pixel = mixed(*pixel, color, share);
        }
    }

    /// A PNG file, with a palette where there are colours enough in one: that is a third of the size.
    fn png(&self) -> Result<Vec<u8>> {
        let mut palette = BTreeMap::new();
        for &pixel in &self.pixels {
            let next = palette.len();
            palette.entry(pixel).or_insert(next);
        }
        let indexes = self.pixels.iter().map(|p| u8::try_from(palette[p]).ok());
        let indexes: Option<Vec<u8>> = indexes.collect();
        let mut file = Vec::new();
        let (width, height) = (u32::try_from(self.width)?, u32::try_from(self.height)?);
        let mut encoder = Encoder::new(&mut file, width, height);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_compression(Compression::High);
        let pixels = match &indexes {
            Some(indexes) => {
                let mut colors = vec![GROUND; palette.len()];
                for (color, index) in &palette {
                    colors[*index] = *color;
                }
                encoder.set_color(ColorType::Indexed);
                encoder.set_palette(colors.as_flattened().to_vec());
                indexes
            }
            None => {
                encoder.set_color(ColorType::Rgb);
                self.pixels.as_flattened()
            }
        };
        let mut writer = encoder.write_header()?;
        writer.write_image_data(pixels)?;
        writer.finish()?;
        Ok(file)
    }
}

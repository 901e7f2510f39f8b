//! The terminal: taken over, and given back whatever happens (quit, error, panic, signal).

use std::io::{self, Stdout, Write as _, stdout};
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{cursor, execute};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;

/// Whether the terminal is ours: giving it back twice would wipe what came after.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Holds the terminal until it is dropped.
#[derive(Debug)]
pub struct Screen {
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Raw mode, the alternate screen, the mouse where it is wanted. A panic gives the terminal back before its
    /// message is printed; with `panic = "abort"` nothing is dropped, so the hook is the only chance.
    pub fn take(mouse: bool) -> io::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        TAKEN.store(true, Ordering::SeqCst);
        let taken = (|| {
            enable_raw_mode()?;
            execute!(stdout(), EnterAlternateScreen, cursor::Hide)?;
            if mouse {
                execute!(stdout(), EnableMouseCapture)?;
            }
            Terminal::new(CrosstermBackend::new(stdout()))
        })();
        match taken {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }
}

impl Screen {
    /// Leaves the screen to someone else: raw mode stays, so that keys can be passed on as they are.
    pub fn lend(&mut self) -> io::Result<()> {
        execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, cursor::Show)
    }

    /// Takes the screen back, in whatever state it was left: modes that a program turned on and did not turn off
    /// would eat keys and colours.
    pub fn take_back(&mut self, mouse: bool) -> io::Result<()> {
        enable_raw_mode()?;
        let mut out = stdout();
        out.write_all(RESET)?;
        execute!(out, EnterAlternateScreen, cursor::Hide)?;
        if mouse {
            execute!(out, EnableMouseCapture)?;
        }
        // Its picture of the screen is void, and clearing it would ask the terminal where the cursor is: an answer
        // that comes by the keys.
        self.terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        execute!(stdout(), Clear(ClearType::All))
    }

    /// Asks the terminal to put `text` on its clipboard (OSC 52), which works over SSH as well; one that does not
    /// know how ignores it.
    pub fn copy(&mut self, text: &str) -> io::Result<()> {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text);
        let mut out = stdout().lock();
        write!(out, "\x1b]52;c;{encoded}\x07")?;
        out.flush()
    }
}

/// Out of a program's alternate screen, keypad, cursor key, mouse and paste modes, scroll region and colours.
const RESET: &[u8] = b"\x1b[?1049l\x1b[?1l\x1b>\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[?7h\x1b[r\x1b[0m\r\n";

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // Nothing can be done about a terminal that is gone.
        let _ = execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
    }
}

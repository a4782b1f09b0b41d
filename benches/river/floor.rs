//! What the machine itself takes for a way through as many sockets and tasks, with nothing done in between.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::Failed;

const TIMES: usize = 300;
const PAUSE: Duration = Duration::from_millis(20);

/// A packet of 80 bytes to a task, which writes 3,200 bytes to a socket that another task reads; in milliseconds.
pub async fn packet_to_chunk() -> Result<Vec<f64>, Failed> {
    let (mut out, mut into) = pair().await?;
    let inlet = UdpSocket::bind("127.0.0.1:0").await?;
    let (to, from) = (inlet.local_addr()?, UdpSocket::bind("127.0.0.1:0").await?);
    let relay = tokio::spawn(async move {
        let mut packet = [0; 200];
        let chunk = [0; 3_200];
        while inlet.recv(&mut packet).await.is_ok() && out.write_all(&chunk).await.is_ok() {}
    });
    let (arrived, mut arrivals) = mpsc::channel(4);
    let reader = tokio::spawn(async move {
        let mut chunk = [0; 3_200];
        while into.read_exact(&mut chunk).await.is_ok() && arrived.send(Instant::now()).await.is_ok() {}
    });
    let mut took = Vec::new();
    for _ in 0..TIMES {
        sleep(PAUSE).await;
        let sent = Instant::now();
        from.send_to(&[0; 80], to).await?;
        took.push(millis(arrivals.recv().await, sent)?);
    }
    relay.abort();
    reader.abort();
    Ok(took)
}

/// 600 bytes to a task, which writes 300 to each of ten sockets that ten tasks read; in milliseconds, for every reader.
pub async fn event_to_listeners() -> Result<Vec<f64>, Failed> {
    let (mut out, mut into) = pair().await?;
    let (arrived, mut arrivals) = mpsc::channel(16);
    let (mut writers, mut readers) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let (writer, mut reader) = pair().await?;
        let arrived = arrived.clone();
        writers.push(writer);
        readers.push(tokio::spawn(async move {
            let mut event = [0; 300];
            while reader.read_exact(&mut event).await.is_ok() && arrived.send(Instant::now()).await.is_ok() {}
        }));
    }
    let relay = tokio::spawn(async move {
        let mut event = [0; 600];
        while into.read_exact(&mut event).await.is_ok() {
            for writer in &mut writers {
                if writer.write_all(&event[..300]).await.is_err() {
                    return;
                }
            }
        }
    });
    let mut took = Vec::new();
    for _ in 0..TIMES {
        sleep(PAUSE).await;
        let sent = Instant::now();
        out.write_all(&[0; 600]).await?;
        for _ in 0..readers.len() {
            took.push(millis(arrivals.recv().await, sent)?);
        }
    }
    relay.abort();
    readers.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(took)
}

fn millis(arrived: Option<Instant>, sent: Instant) -> Result<f64, Failed> {
    Ok(arrived.ok_or("the floor's reader is gone")?.saturating_duration_since(sent).as_secs_f64() * 1e3)
}

async fn pair() -> Result<(TcpStream, TcpStream), Failed> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (one, other) = tokio::try_join!(TcpStream::connect(listener.local_addr()?), listener.accept())?;
    one.set_nodelay(true)?;
    other.0.set_nodelay(true)?;
    Ok((one, other.0))
}

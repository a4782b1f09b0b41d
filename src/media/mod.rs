//! WebRTC and codecs: audio in from the speaker.

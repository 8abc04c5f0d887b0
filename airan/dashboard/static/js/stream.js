// The server's events. EventSource reconnects by itself after a broken connection, but not after
// an HTTP error, and it does not notice a silent one; both are handled here.

const SILENT_AFTER_MS = 7000;
const RETRY_MS = 1000;

export class Stream {
  constructor(url, { onHistory, onSnapshot, onEvent, onState }) {
    this.url = url;
    this.handlers = { history: onHistory, snapshot: onSnapshot, event: onEvent };
    this.onState = onState;
    this.lastMessageAt = performance.now();
    this.open();
    setInterval(() => this.watch(), 1000);
  }

  open() {
    this.source = new EventSource(this.url);
    for (const [name, handler] of Object.entries(this.handlers)) {
      this.source.addEventListener(name, (message) => {
        this.lastMessageAt = performance.now();
        handler(JSON.parse(message.data));
        this.onState("live");
      });
    }
    this.source.addEventListener("error", () => {
      this.onState("reconnecting");
      if (this.source.readyState === EventSource.CLOSED) this.reopenSoon();
    });
  }

  watch() {
    if (performance.now() - this.lastMessageAt < SILENT_AFTER_MS) return;
    this.onState("reconnecting");
    this.lastMessageAt = performance.now();
    this.reopenSoon();
  }

  reopenSoon() {
    this.source.close();
    clearTimeout(this.retry);
    this.retry = setTimeout(() => this.open(), RETRY_MS);
  }
}

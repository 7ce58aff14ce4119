/* Search without a server. A browser starts no worker from a file; then a hidden frame does the work instead. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.title = "search";
      document.body.append(frame);
      this.inside = frame.contentWindow;
      const page = frame.contentDocument;
      const answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.inside.postMessage = answer;
      this.inside.importScripts = (...scripts) =>
        scripts.reduce((before, src) => before.then(() => load(page, src)), Promise.resolve());
      load(page, url).then(() => {
        const waiting = this.waiting;
        this.waiting = null;
        waiting.forEach((data) => this.postMessage(data));
      });
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data }));
    }

    terminate() {}
  };

  const load = (page, src) =>
    new Promise((done, failed) => {
      const script = page.createElement("script");
      script.src = src;
      script.onload = done;
      script.onerror = failed;
      (page.body || page.documentElement).append(script);
    });
}

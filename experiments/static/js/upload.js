// Sends a file in pieces behind its form: announce, PUT each piece at its offset, continue where it broke off.
// The page works on forms marked data-upload; their file never travels through the form itself.

const RETRIES = 6;

for (const form of document.querySelectorAll("form[data-upload]")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    new Sender(form).run();
  });
}

class Sender {
  constructor(form) {
    this.form = form;
    this.file = form.querySelector("input[type=file]").files[0];
    this.token = form.querySelector("[name=csrfmiddlewaretoken]").value;
    this.bar = form.querySelector("progress");
    this.words = form.querySelector("[data-upload-words]");
    this.button = form.querySelector("[type=submit]");
    this.cancel = form.querySelector("[data-upload-cancel]");
    this.stopped = new AbortController();
  }

  async run() {
    this.clearErrors();
    this.button.disabled = true;
    try {
      const ticket = await this.announce();
      if (ticket) await this.send(ticket);
    } catch (error) {
      if (error.name !== "AbortError") this.say(`The upload stopped: ${error.message}. Press the button to try again.`);
    } finally {
      this.button.disabled = false;
    }
  }

  async announce() {
    const body = new FormData(this.form);
    for (const input of this.form.querySelectorAll("input[type=file]")) body.delete(input.name);
    body.set("filename", this.file ? this.file.name : "");
    body.set("size", this.file ? String(this.file.size) : "");
    const answer = await fetch(this.form.dataset.upload, { method: "POST", body, headers: { "X-CSRFToken": this.token } });
    if (answer.status === 422) {
      this.showErrors((await answer.json()).errors);
      return null;
    }
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    return answer.json();
  }

  async send({ id, piece }) {
    const base = this.form.dataset.uploads + id;
    this.offerCancel(base);
    const began = performance.now();
    let offset = 0;
    while (offset < this.file.size) {
      const answer = await this.put(`${base}/piece?offset=${offset}`, this.file.slice(offset, offset + piece));
      if (answer.received === undefined) throw new Error(answer.error || "the server refused a piece");
      offset = answer.received;
      this.show(offset, (performance.now() - began) / 1000);
    }
    window.location.assign(`${base}/`);
  }

  // A piece is tried again after a lost connection; 409 tells where the server really is.
  async put(url, blob) {
    for (let attempt = 0; ; attempt++) {
      try {
        const headers = { "X-CSRFToken": this.token, "Content-Type": "application/octet-stream" };
        const answer = await fetch(url, { method: "PUT", body: blob, headers, signal: this.stopped.signal });
        if (answer.status < 500) return await answer.json();
        throw new Error(`the server answered ${answer.status}`);
      } catch (error) {
        if (error.name === "AbortError" || attempt >= RETRIES) throw error;
        this.say("The connection broke; trying again …");
        await new Promise((done) => setTimeout(done, 500 * 2 ** attempt));
      }
    }
  }

  offerCancel(base) {
    if (!this.cancel) return;
    this.cancel.hidden = false;
    this.cancel.onclick = async () => {
      this.stopped.abort();
      await fetch(`${base}/cancel`, { method: "POST", headers: { "X-CSRFToken": this.token } });
      this.cancel.hidden = true;
      this.bar.hidden = true;
      this.say("Cancelled; nothing was kept.");
    };
  }

  show(sent, seconds) {
    this.bar.hidden = false;
    this.bar.max = this.file.size;
    this.bar.value = sent;
    const mb = (n) => (n / 1e6).toFixed(1);
    const rate = seconds > 0 ? `, ${mb(sent / seconds)} MB/s` : "";
    this.say(`${mb(sent)} of ${mb(this.file.size)} MB${rate}`);
  }

  say(text) {
    this.words.textContent = text;
  }

  clearErrors() {
    for (const place of this.form.querySelectorAll("[data-upload-error]")) place.remove();
    for (const input of this.form.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
    this.say("");
  }

  showErrors(errors) {
    for (const [field, messages] of Object.entries(errors)) {
      const input = this.form.querySelector(`[name="${CSS.escape(field)}"]`);
      const place = document.createElement("p");
      place.className = "field-error";
      place.dataset.uploadError = "";
      place.textContent = messages.join(" ");
      if (input) {
        input.setAttribute("aria-invalid", "true");
        (input.closest(".field") || input.parentElement).append(place);
      } else {
        this.words.after(place);
      }
    }
    const first = this.form.querySelector("[aria-invalid]");
    if (first) first.focus();
  }
}

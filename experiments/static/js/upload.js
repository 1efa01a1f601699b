// Sends a file in pieces behind its form: announce, PUT each piece at its offset, continue where it broke off.
// The page works on forms marked data-upload; their file never travels through the form itself.

const RETRIES = 6;
const JSON_ANSWERS = [200, 409, 413, 507];

const answered = (answer) => interpolate(gettext("the server answered %s"), [answer.status]);

class Sender {
  constructor(form) {
    this.form = form;
    this.url = form.getAttribute("data-upload"); // form.dataset may be a field of that name
    this.bar = form.querySelector("progress");
    this.words = form.querySelector("[data-upload-words]");
    this.button = form.querySelector("[type=submit]");
    this.cancel = form.querySelector("[data-upload-cancel]");
    this.headers = { "X-CSRFToken": form.querySelector("[name=csrfmiddlewaretoken]").value };
    this.cancel.addEventListener("click", () => this.giveUp());
  }

  async run() {
    this.clearErrors();
    this.button.disabled = true;
    this.stopped = new AbortController();
    try {
      if (await this.announce()) await this.send();
    } catch (error) {
      if (error.name !== "AbortError") this.say(interpolate(gettext("The upload stopped: %s. Press the button to go on."), [error.message]));
    } finally {
      this.button.disabled = false;
    }
  }

  chosen() {
    return this.form.elements.file.files[0];
  }

  // The form with the file's name and size in place of the file.
  wish() {
    const body = new FormData(this.form);
    body.delete("file");
    this.file = this.chosen();
    body.set("filename", this.file?.name ?? "");
    body.set("size", String(this.file?.size ?? ""));
    return body;
  }

  // True when there is a ticket to send for: a new one, or the one that broke off if nothing was changed since.
  async announce() {
    const body = this.wish();
    const asked = new URLSearchParams(body).toString() + this.file?.lastModified;
    if (this.ticket && this.asked === asked) return true;
    if (this.ticket) await this.forget();
    const answer = await fetch(this.url, { method: "POST", body, headers: this.headers });
    if (answer.status === 422) this.showErrors((await answer.json()).errors);
    else if (!answer.ok) throw new Error(answered(answer));
    else [this.ticket, this.asked] = [await answer.json(), asked];
    return answer.ok;
  }

  async send() {
    const ticket = this.ticket;
    this.cancel.hidden = false;
    const began = performance.now();
    const first = ticket.received;
    while (ticket.received < this.file.size) {
      const from = ticket.received;
      const answer = await this.put(`${ticket.url}piece?offset=${from}`, this.file.slice(from, from + ticket.piece));
      if (answer.error) throw new Error(answer.error.replace(/[.。]$/, ""));
      ticket.received = answer.received;
      this.show(answer.received, (answer.received - first) / (performance.now() - began));
    }
    window.location.assign(ticket.url);
  }

  // A piece is tried again after a lost connection; 409 tells where the server really is.
  async put(url, blob) {
    for (let attempt = 0; ; attempt++) {
      try {
        const headers = { ...this.headers, "Content-Type": "application/octet-stream" };
        const answer = await fetch(url, { method: "PUT", body: blob, headers, signal: this.stopped.signal });
        if (JSON_ANSWERS.includes(answer.status)) return await answer.json();
        if (answer.status < 500) return { error: answered(answer) };
        throw new Error(answered(answer));
      } catch (error) {
        if (error.name === "AbortError" || attempt >= RETRIES) throw error;
        this.say(gettext("The connection broke; trying again …"));
        await new Promise((done) => setTimeout(done, 500 * 2 ** attempt));
      }
    }
  }

  async giveUp() {
    this.stopped.abort();
    await this.forget();
    this.cancel.hidden = this.bar.hidden = true;
    this.say(gettext("Cancelled; nothing was kept."));
  }

  async forget() {
    await fetch(`${this.ticket.url}cancel`, { method: "POST", headers: this.headers });
    this.ticket = null;
  }

  show(sent, bytesPerMs) {
    this.bar.hidden = false;
    this.bar.max = this.file.size;
    this.bar.value = sent;
    const mb = (n) => (n / 1e6).toFixed(1);
    const words = interpolate(gettext("%s of %s MB"), [mb(sent), mb(this.file.size)]);
    this.say(Number.isFinite(bytesPerMs) ? `${words}, ${mb(bytesPerMs * 1000)} MB/s` : words);
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
      const place = document.createElement("div");
      place.className = "error";
      place.setAttribute("role", "alert");
      place.dataset.uploadError = "";
      place.textContent = messages.join(" ");
      input?.setAttribute("aria-invalid", "true");
      if (input?.closest(".field")) input.closest(".field").append(place);
      else this.words.after(place);
    }
    this.form.querySelector("[aria-invalid=true]")?.focus();
  }
}

for (const form of document.querySelectorAll("form[data-upload]")) {
  const sender = new Sender(form);
  form.addEventListener("submit", (event) => {
    // A folder the server can read already is named in the form itself.
    const folder = form.elements.source_folder;
    if (folder?.value && !sender.chosen()) return;
    event.preventDefault();
    sender.run();
  });
}

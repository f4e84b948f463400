"use strict";
// Signs a decision on a proposal (RFC 9421, Ed25519). The private key stays in the browser.

const coded = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes)));
const utf8 = (text) => new TextEncoder().encode(text);

async function privateKeyOf(file) {
  const lines = (await file.text()).replace(/-----[A-Z ]+-----|\s/g, "");
  const bytes = Uint8Array.from(atob(lines), (one) => one.charCodeAt(0));
  return crypto.subtle.importKey("pkcs8", bytes, "Ed25519", false, ["sign"]);
}

async function headersOf(url, key, body, privateKey) {
  const digest = `sha-256=:${coded(await crypto.subtle.digest("SHA-256", utf8(body)))}:`;
  const covered = {
    "@method": "POST",
    "@authority": new URL(url).host,
    "@target-uri": url,
    "authorization": `Bearer ${key}`,
    "content-type": "application/json",
    "content-digest": digest,
  };
  const names = Object.keys(covered).map((name) => `"${name}"`).join(" ");
  const created = Math.floor(Date.now() / 1000);
  const described = `(${names});created=${created};keyid="${key.slice(4, 16)}";nonce="${crypto.randomUUID()}";alg="ed25519"`;
  const lines = Object.entries(covered).map(([name, value]) => `"${name}": ${value}`);
  const text = [...lines, `"@signature-params": ${described}`].join("\n");
  const signature = coded(await crypto.subtle.sign("Ed25519", privateKey, utf8(text)));
  return { digest, input: `sig1=${described}`, signature: `sig1=:${signature}:` };
}

async function sign(form, button) {
  const field = (name) => form.elements.namedItem(name);
  const fault = form.querySelector("[data-fault]");
  fault.hidden = true;
  try {
    const privateKey = await privateKeyOf(form.querySelector("input[type=file]").files[0]);
    const body = JSON.stringify({ reason: field("reason").value });
    const key = field("key").value.trim();
    const headers = await headersOf(button.dataset.target, key, body, privateKey);
    for (const [name, value] of Object.entries({ ...headers, body, key })) field(name).value = value;
    form.action = button.formAction;
    form.submit();
  } catch {
    fault.hidden = false;
  }
}

for (const form of document.querySelectorAll("form[data-signed]")) {
  form.hidden = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sign(form, event.submitter);
  });
}

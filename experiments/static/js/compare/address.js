// What the page's address says, changed in place: going back leaves the page, not a step of switching.

export function remember(name, value) {
  const url = new URL(location.href);
  if (value) url.searchParams.set(name, value); else url.searchParams.delete(name);
  history.replaceState(history.state, "", url);
}

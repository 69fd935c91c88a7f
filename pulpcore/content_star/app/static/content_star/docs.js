// Shows the OpenAPI document that the page contains; without this, the page links to the document.
"use strict";
const description = JSON.parse(document.getElementById("openapi").textContent);
// No search: it needs a worker, which the page's policy forbids. Plugins wrote parts of the document.
const options = {
  disableSearch: true, hideDownloadButtons: true, nativeScrollbars: true, sanitize: true,
};
Redoc.init(description, options, document.getElementById("viewer"));

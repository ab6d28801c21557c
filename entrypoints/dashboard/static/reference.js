// The API's reference: Swagger UI on this server's own OpenAPI document.

const place = document.getElementById("reference");
window.SwaggerUIBundle({
  domNode: place,
  url: new URL(place.dataset.document, location.href).href,
  deepLinking: true, // a call has an address of its own
  validatorUrl: null, // nothing is sent anywhere else
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  tryItOutEnabled: false,
});

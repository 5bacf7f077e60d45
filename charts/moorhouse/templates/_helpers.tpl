{{/* The labels of everything in the chart. */}}
{{- define "moorhouse.labels" -}}
{{ include "moorhouse.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* What the operator's pods are selected by; network policies of the warehouses name the first. */}}
{{- define "moorhouse.selector" -}}
app.kubernetes.io/name: moorhouse-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The name of cluster-wide objects. */}}
{{- define "moorhouse.cluster" -}}
{{ printf "%s-%s-operator" .Release.Namespace .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "moorhouse.name" -}}
{{ printf "%s-operator" .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}
